"""One exception hierarchy for everything a user, a checkpoint or a stage can cause.

Every argument is positional and handed to ``Exception.__init__``: Ray pickles exceptions between replicas,
and a keyword-only argument would not survive that. HTTP statuses are given in one place, serve_app/errors.py.
"""


class EditXError(Exception):
    """Base of the hierarchy. ``str(error)`` is one line that may be shown to a client."""


class InvalidInputError(EditXError):
    """The request cannot be served as it stands.

    Args:
        message: what is wrong, in words for the client.
        param: the dotted name of the request's field, or None.
        code: a short machine-readable code, e.g. ``audio_too_short``.
    """

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message


class NotFoundError(InvalidInputError):
    """A model, variant or voice that is not there."""


class OverloadedError(EditXError):
    """A queue is full; try again later."""


class DeadlineError(EditXError):
    """The deadline passed before the result was there.

    Args:
        message: which deadline it was, in words for the client.
        by_client: the client set the deadline, not the server.
    """

    def __init__(self, message: str, by_client: bool = False) -> None:
        super().__init__(message, by_client)
        self.message = message
        self.by_client = by_client

    def __str__(self) -> str:
        return self.message


class StageError(EditXError):
    """A stage failed in a way the client did not cause."""


class CheckpointError(EditXError):
    """A checkpoint folder cannot be used.

    Args:
        problems: everything that is wrong with it, one line each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "checkpoint not usable:\n" + "\n".join(f"  - {problem}" for problem in self.problems)
