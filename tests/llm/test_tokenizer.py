import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from deployments.errors import CheckpointError, InvalidInputError
from deployments.llm import prompt
from deployments.llm.tokenizer import Step1Tokenizer, audio_text
from deployments.types import ClonePrompt, EditPrompt

GOLDENS = Path(__file__).parents[1] / "goldens" / "tokenizer"
ENTRIES = json.loads((GOLDENS / "prompt_ids.json").read_text(encoding="utf-8"))


def codes_of(text: str) -> np.ndarray:
    return np.array([int(code) for code in text.strip("<>").replace("audio_", "").split("><")], dtype=np.int32)


def encode(tokenizer: Step1Tokenizer, entry: dict) -> list[int]:
    if entry["kind"] == "encode":
        return tokenizer.encode(entry["text"])
    codes = codes_of(entry["audio_tokens"])
    if entry["kind"] == "clone":
        return tokenizer.encode_prompt(ClonePrompt(entry["target"], entry["prompt_text"], codes, entry["speaker"]))
    instruction = prompt.edit_instruction(entry["edit_type"], entry["edit_info"], entry["audio_text"], entry["text"])
    return tokenizer.encode_prompt(EditPrompt(instruction, codes))


@pytest.fixture(scope="module")
def tokenizer() -> Step1Tokenizer:
    return Step1Tokenizer(GOLDENS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['kind']}-{entry.get('edit_type', '')}")
def test_ids_are_those_of_the_published_set_up(tokenizer: Step1Tokenizer, entry: dict):
    assert encode(tokenizer, entry) == entry["ids"]


def test_a_converted_tokenizer_gives_the_same_ids(tokenizer: Step1Tokenizer, tmp_path: Path):
    tokenizer._tokenizer.save(str(tmp_path / "tokenizer.json"))
    converted = Step1Tokenizer(tmp_path)
    assert all(encode(converted, entry) == entry["ids"] for entry in ENTRIES)


def test_special_ids_come_from_the_file(tokenizer: Step1Tokenizer):
    assert (tokenizer.bos, tokenizer.end, tokenizer.begin, tokenizer.audio) == (1, 3, 4, 5)
    assert tokenizer.stops == (3, 2)
    assert tokenizer.size == 5900


def test_codes_beyond_the_codebooks_are_refused():
    with pytest.raises(InvalidInputError, match=r"0\.\.5119"):
        audio_text(np.array([3, 5120]))


def test_no_codes_are_no_text():
    assert audio_text(np.array([], dtype=np.int32)) == ""


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_bad_model_file_is_named(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        Step1Tokenizer(tmp_path)


def test_a_bad_converted_file_is_named(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Step1Tokenizer(tmp_path)


def test_a_tokenizer_without_audio_tokens_is_refused(tmp_path: Path, tokenizer: Step1Tokenizer):
    text = tokenizer._tokenizer.to_str().replace("<audio_77>", "<audio_x>")
    Tokenizer.from_str(text).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="not 5120 ids in a row"):
        Step1Tokenizer(tmp_path)
