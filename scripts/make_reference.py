"""Write docs/configuration.md from the typed arguments: ``python -m scripts.make_reference``."""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serve_app.config import AppArgs

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

Everything that may stand under `args:` of the application in configs/serve.yaml and its sisters. An unknown key stops
the deployment. Written by `python -m scripts.make_reference` from serve_app/config.py.
"""


def page() -> str:
    """The whole page: one table for the application's arguments, one for each model inside them."""
    return HEAD + "".join(_section(model) for model in _models(AppArgs))


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for inner in _inside(field.annotation):
            found += [each for each in _models(inner) if each not in found]
    return found


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _inside(argument)]


def _section(model: type[BaseModel]) -> str:
    title = "args" if model is AppArgs else model.__name__
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    doc = (model.__doc__ or "").strip()
    return f"\n## {title}\n\n{doc}\n\n| field | type | default | what it is |\n|---|---|---|---|\n" + "".join(rows)


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {field.description or ''} |\n"


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in get_args(annotation) if argument is not type(None))
    if origin is dict:
        key, value = get_args(annotation)
        return f"mapping of {_type(key)} to {_type(value)}"
    if origin is list:
        return f"list of {_type(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return f"{annotation.__name__}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default is PydanticUndefined:
        return "see right" if field.description else ""
    if isinstance(field.default, BaseModel):
        changed = field.default.model_dump(exclude_defaults=True)
        return f"`{changed}`" if changed else "its own"
    return "none" if field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
