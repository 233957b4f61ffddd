"""The one place where exceptions become HTTP: OpenAI's envelope and the status of each case."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deployments.errors import DeadlineError, EditXError, InvalidInputError, NotFoundError, OverloadedError

logger = logging.getLogger("ray.serve")

RETRY_AFTER_S = 5
_MISSING = {"missing", "string_too_short"}


def envelope(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None, retry: bool = False
) -> JSONResponse:
    """An error response as OpenAI's clients expect it."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if retry else None
    return JSONResponse({"error": _body(message, kind, param, code)}, status_code=status, headers=headers)


def _body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, str | None]:
    return {"message": message, "type": kind, "param": param, "code": code}


def late_error(error: Exception, request_id: str) -> dict[str, str | None]:
    """The same for an error after the status line is gone: the envelope's inside."""
    logger.error("request %s failed while it was speaking: %s", request_id, _first_line(error))
    if isinstance(error, DeadlineError):
        return _body(str(error), "timeout_error", code="deadline_exceeded")
    return _body(f"the server failed on this request (id {request_id})", "server_error", code="server_error")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def editx_error(_request: Request, error: Exception) -> JSONResponse:
    """The response for an exception of the project's own hierarchy."""
    if isinstance(error, NotFoundError):
        return envelope(404, str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, InvalidInputError):
        return envelope(400, str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, OverloadedError):
        return envelope(429, str(error), "rate_limit_error", code="queue_full", retry=True)
    if isinstance(error, DeadlineError) and error.by_client:
        return envelope(408, str(error), "timeout_error", code="deadline_exceeded")
    if isinstance(error, DeadlineError):
        return envelope(503, str(error), "timeout_error", code="deadline_exceeded", retry=True)
    return server_error(_request, error)


def server_error(request: Request, error: Exception) -> JSONResponse:
    """The response for a failure the client did not cause: one line, with the request id to find it in the logs."""
    request_id = request.headers.get("x-request-id", "unknown")
    logger.error("request %s failed: %s", request_id, _first_line(error))
    return envelope(500, f"the server failed on this request (id {request_id})", "server_error", code="server_error")


def validation_error(_request: Request, error: Exception) -> JSONResponse:
    """400 for a body that does not fit the schema, naming the first field that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return envelope(400, "the body is not valid JSON", "invalid_request_error", code="invalid_json")
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return envelope(400, message, "invalid_request_error", param, _validation_code(first))


def _validation_code(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown_field"
    return "missing_field" if error["type"] in _MISSING else "invalid_value"


def http_error(_request: Request, error: Exception) -> JSONResponse:
    """The envelope for what the framework itself refuses: 404, 405 and the like."""
    assert isinstance(error, HTTPException)
    # The framework's only 400 of its own is a body that it cannot parse.
    code = "invalid_json" if error.status_code == 400 else None
    response = envelope(error.status_code, str(error.detail), "invalid_request_error", code=code)
    response.headers.update(error.headers or {})
    return response


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error in the envelope."""
    app.add_exception_handler(EditXError, editx_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, server_error)
