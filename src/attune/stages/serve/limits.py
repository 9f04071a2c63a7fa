"""What is refused at the edge, from headers and bytes alone: foreign hosts, foreign origins, other formats, too much, too deep."""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from attune.stages.serve.problems import Problem

OPEN_PATHS = ("/livez", "/readyz")
"""The only paths that answer without the token."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_HEADER_BYTES = 16_384
MAX_DEPTH = 32
"""Brackets within brackets in a JSON body."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header's value; None when it is absent, a Problem when it comes twice."""
    found = [value for key, value in headers if key == name]
    if len(found) > 1:
        raise Problem(400, "the header stands more than once", field=name.decode(), fix="send it once")
    return found[0].decode("latin-1").strip() if found else None


def require_header_size(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse more header bytes than any client of ours sends."""
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise Problem(431, f"the headers are larger than {MAX_HEADER_BYTES:,} bytes", fix="send fewer headers")


def host_name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name = re.sub(r":\d*$", "", host) if host.startswith("[") or host.count(":") <= 1 else host
    return name.lower()


def require_host(headers: Sequence[tuple[bytes, bytes]], allowed: Sequence[str]) -> None:
    """Refuse a Host that is not ours: a page elsewhere whose name was pointed at this machine (DNS rebinding) sends its own name."""
    host = header(headers, b"host")
    if host is None or host_name(host) not in {name.lower() for name in allowed}:
        raise Problem(421, "this endpoint does not answer for that host", field="Host", fix="use one of serve.allowed_hosts")


def require_origin(method: str, headers: Sequence[tuple[bytes, bytes]], allowed: Sequence[str]) -> None:
    """Refuse a changing request that a page of another origin sent through the user's browser."""
    origin = header(headers, b"origin")
    if origin is None or method in SAFE_METHODS:
        return
    parts = urlsplit(origin) if origin != "null" else urlsplit("")
    host = header(headers, b"host") or ""
    if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower() or host_name(parts.netloc) not in {name.lower() for name in allowed}:
        raise Problem(403, "requests of pages from elsewhere are refused", field="Origin", fix="send the request from your own program, not from a page")


def require_token(path: str, headers: Sequence[tuple[bytes, bytes]], token: str) -> None:
    """Refuse a request without the token; every path but the health checks needs it, also paths that do not exist."""
    if path in OPEN_PATHS:
        return
    scheme, _, given = (header(headers, b"authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode()):
        raise Problem(401, "the token is missing or wrong", field="Authorization", fix="send `Authorization: Bearer TOKEN`; `attune serve` prints it", headers={"WWW-Authenticate": "Bearer"})


def require_json(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a body that does not say it is plain JSON (a form posted by a page never does)."""
    media = (header(headers, b"content-type") or "").split(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(415, "the body must be JSON", field="Content-Type", fix="send Content-Type: application/json")
    if (header(headers, b"content-encoding") or "identity").lower() != "identity":
        raise Problem(415, "compressed bodies are not read", field="Content-Encoding", fix="send the body as it is")


def require_size(headers: Sequence[tuple[bytes, bytes]], limit: int) -> None:
    """Refuse a body that says it is too large, before any of it is read."""
    said = header(headers, b"content-length")
    if said is not None and (not said.isdigit() or int(said) > limit):
        raise too_large(limit)


def too_large(limit: int) -> Problem:
    """A body over the limit."""
    return Problem(413, f"the body is larger than {limit:,} bytes", field="body", fix="send fewer or shorter items; the limit is serve.max_body_bytes")


def require_json_text(body: bytes) -> None:
    """Refuse, before anything is parsed, what is not UTF-8 and JSON that is nested deeper than any request of ours."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(422, f"the body is not UTF-8 at byte {error.start}", field="body", fix="encode it as UTF-8") from error
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise Problem(422, f"the JSON is nested deeper than {MAX_DEPTH}", field="body", fix="send a flat object")


def require_unique_keys(body: bytes) -> None:
    """Refuse an object in which a key stands twice: readers disagree about which one counts. What is no JSON is left to the reader behind."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise Problem(422, "the key stands twice in one object", field=twice[:100], fix="send it once")
        return found

    try:
        json.loads(body, object_pairs_hook=unique)
    except ValueError:
        return


def require_text(value: str, field: str, limit: int) -> None:
    """Refuse text that is too long, that holds a NUL, or that is not Unicode (half of a surrogate pair)."""
    if len(value) > limit:
        raise Problem(422, f"the text has {len(value):,} characters; at most {limit:,} are read", field=field, fix="shorten it, or raise serve.max_text_chars")
    if "\x00" in value:
        raise Problem(422, "the text holds a NUL character", field=field, fix="remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Problem(422, "the text holds half of a surrogate pair", field=field, fix="send valid Unicode") from error


def require_texts(value: object, field: str, limit: int) -> None:
    """`require_text` of every string inside a JSON value, keys included."""
    if isinstance(value, str):
        require_text(value, field, limit)
    elif isinstance(value, dict):
        for name, inner in value.items():
            require_text(name, field, limit)
            require_texts(inner, f"{field}.{name}", limit)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            require_texts(inner, f"{field}[{number}]", limit)
