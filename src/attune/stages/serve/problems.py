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

KINDS: tuple[tuple[type, str], ...] = ((bool, "true or false"), (int, "this number"), (float, "this number"), (str, "this text"), (list, "a list"), (dict, "an object"))
EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number that is finite",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt:.12g}",
    "greater_than_equal": "a number of {ge:.12g} or more",
    "less_than": "a number below {lt:.12g}",
    "less_than_equal": "a number of {le:.12g} or less",
    "string_too_short": "{min_length} character(s) or more",
    "string_too_long": "{max_length} characters or fewer",
    "too_short": "{min_length} item(s) or more",
}
"""Kinds of pydantic's errors -> what was expected."""


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
"""Paths of OpenAI's API that there are."""
OWN_PATHS = ("/v1/predict", "/v1/feedback", "/v1/release", "/v1/refresh")
"""Paths under /v1 that are no part of it."""
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def speaks_openai(path: str) -> bool:
    """True for a path of OpenAI's API, also for one that there is not: what lies under it answers in its form, errors included."""
    return path.startswith("/v1/") and not any(path == one or path.startswith(one + "/") for one in OWN_PATHS)


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


def misshapen(errors: Sequence[Any]) -> Problem:
    """The refusal of a body that has not its form, from pydantic's errors on it: of every field what was expected. Of values that may
    have one of several forms the innermost faults are told."""
    told: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}
    for one in errors:
        field, kind = _field(one["loc"]), one["type"]
        if kind in EXPECTED:
            wanted.setdefault(field, []).append(EXPECTED[kind].format(**one.get("ctx", {})))
            told[field] = f"{_kind(one['input'])} does not fit: expected {' or '.join(dict.fromkeys(wanted[field]))}"
        else:
            told[field] = {"extra_forbidden": f"'{one['loc'][-1]}' is not known here", "missing": f"'{one['loc'][-1]}' is missing"}.get(kind, str(one["msg"]))
    inner = [field for field in told if not any(other.startswith((f"{field}.", f"{field}[")) for other in told)]
    return Problem(422, told[inner[0]], field=inner[0], fix="/openapi.json describes the request", errors=[{"field": field, "detail": told[field]} for field in inner])


def _field(place: Sequence[int | str]) -> str:
    """A validation error's place in the body as a dotted path; pydantic's names of the forms that a value may have are left out."""
    path = ""
    for part in place[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "str" and not part.startswith(("dict[", "list[", "literal[")):
            path += f".{part}" if path else part
    return path or "body"


def _kind(value: Any) -> str:
    """What a JSON value is, in words; the value itself is repeated nowhere."""
    return next((words for kind, words in KINDS if isinstance(value, kind)), "nothing")
