"""Errors over HTTP: RFC 9457 problem documents that name the field and the way out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attune.core.errors import AttuneError, DataError, MachineError, Problems, RecipeError, Refused

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Not allowed without the token",
    403: "Refused",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Not JSON",
    421: "Wrong host",
    422: "Cannot be used",
    429: "Too many at once",
    431: "Headers too large",
    500: "Fault in the server",
    503: "Not available now",
}


class Problem(Exception):
    """A refusal with its HTTP status.

    Args:
        status: HTTP status code.
        detail: what is wrong, in a sentence.
        field: the field or header it is about.
        fix: the way out.
        errors: several findings, each with `field` and `detail`.
        headers: extra response headers.
    """

    def __init__(self, status: int, detail: str, *, field: str | None = None, fix: str | None = None, errors: Sequence[dict[str, str]] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.fix = fix
        self.errors = list(errors)
        self.headers = headers or {}
        self.code: str | None = None
        """A word for programs, in OpenAI's form."""
        self.finished = False
        """True when the request's body had been read to its end."""

    def body(self) -> bytes:
        """The problem document."""
        facts: dict[str, Any] = {"type": "about:blank", "title": TITLES.get(self.status, "Error"), "status": self.status, "detail": self.detail}
        facts |= {name: value for name, value in (("field", self.field), ("fix", self.fix), ("errors", self.errors)) if value}
        return json.dumps(facts, ensure_ascii=False).encode()


OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models")
"""Paths, and what lies under them, that answer in the form of OpenAI's API, errors included."""
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def speaks_openai(path: str) -> bool:
    """True for a path of OpenAI's API."""
    return any(path == one or path.startswith(one + "/") for one in OPENAI_PATHS)


def written(problem: Problem, path: str) -> tuple[int, bytes, str]:
    """Status, body and media type of a refusal in the form that the path's clients read."""
    if not speaks_openai(path):
        return problem.status, problem.body(), MEDIA_TYPE
    status = 400 if problem.status == 422 else problem.status
    return status, json.dumps({"error": openai_error(problem)}, ensure_ascii=False).encode(), "application/json"


def openai_error(problem: Problem) -> dict[str, Any]:
    """The error object of OpenAI's API: message, type, param and code."""
    kind = OPENAI_TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    message = f"{problem.detail}{'. ' + problem.fix[0].upper() + problem.fix[1:] if problem.fix else ''}"
    return {"message": message, "type": kind, "param": problem.field, "code": problem.code}


def problem_of(error: AttuneError) -> Problem:
    """The HTTP form of one of our errors; what lies inside the machine (paths, addresses) stays inside."""
    if isinstance(error, Problems):
        return Problem(422, error.what, errors=[{"field": one.place or "", "detail": one.what} for one in error.problems])
    if isinstance(error, (DataError, RecipeError)):
        return Problem(422, error.what, field=error.place, fix=error.fix)
    if isinstance(error, Refused):
        if error.place == "request_id":
            return Problem(404, "no logged request has this id", field=error.place, fix=error.fix)
        return Problem(409, "this key was used with another answer" if error.place == "key" else error.what, field=error.place, fix=error.fix)
    if isinstance(error, MachineError):
        return Problem(503, "a part that this needs is not available", fix="try again later", headers={"Retry-After": "5"})
    return Problem(500, "the server could not answer; its operator finds the reason in the events")
