"""What the edge refuses, and that it refuses nothing else: token, host, origin, format, size, depth, content."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from attune.core.errors import MachineError, Refused
from attune.core.recipe import ServeKeys
from attune.core.workspace import Workspace
from attune.stages import serve
from attune.stages.serve import limits
from attune.stages.serve.app import ROUTES, is_loopback
from attune.stages.serve.problems import MEDIA_TYPE, Problem, speaks_openai
from attune.stages.serve.tokens import token_file, token_of
from tests import releases
from tests.serve.conftest import KEYS, TOKEN, URL

OPEN = {"/livez", "/readyz"}
JSON = {"Content-Type": "application/json"}


def all_routes(client):
    return [(method, route.path) for route in client.app.routes for method in sorted(route.methods)]


@pytest.fixture
def stranger(client):
    """The same endpoint without the token."""
    return TestClient(client.app, base_url=URL, raise_server_exceptions=False)


def problem(answer, status, field=None):
    if speaks_openai(answer.request.url.path):
        return openai_problem(answer, status)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    if answer.request.method == "HEAD":
        return {}
    found = answer.json()
    assert found["status"] == status
    assert found["detail"]
    if field is not None:
        assert found["field"] == field
    return found


def openai_problem(answer, status):
    """The same refusal in the form that OpenAI's clients read."""
    assert answer.status_code == (400 if status == 422 else status), answer.text
    assert answer.headers["content-type"] == "application/json"
    if answer.request.method == "HEAD":
        return {}
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["message"]
    return found


def test_every_route_is_known_to_the_matrix(client):
    assert {path for _, path in all_routes(client)} == set(ROUTES)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer " + "u" * 43},
        {"Authorization": "Bearer " + TOKEN[:-1]},
        {"Authorization": "Bearer " + TOKEN + "t"},
        {"Authorization": "Basic " + TOKEN},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xff".encode("latin-1")},
        {"X-Token": TOKEN, "Cookie": f"token={TOKEN}"},
    ],
)
def test_no_route_but_the_health_checks_answers_without_the_token(client, stranger, headers):
    for method, path in [*all_routes(client), ("GET", "/"), ("POST", "/v1/unknown"), ("GET", "/livez/"), ("GET", "//livez")]:
        answer = stranger.request(method, path, headers=headers, **({"json": {"input": "hello"}} if method == "POST" else {}))
        if path in OPEN:
            assert answer.status_code == 200
        else:
            problem(answer, 401, "Authorization")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert stranger.get("/metrics", params={"token": TOKEN}).status_code == 401


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8321", True),
        ("localhost", True),
        ("LOCALHOST:99", True),
        ("[::1]:8321", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8321", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("", False),
    ],
)
def test_only_our_own_hosts_are_answered(client, host, allowed):
    for method, path in all_routes(client):
        answer = client.request(method, path, headers={"Host": host}, **({"json": {}} if method == "POST" else {}))
        if allowed:
            assert answer.status_code != 421
        else:
            problem(answer, 421, "Host")


def test_two_host_headers_are_refused(client):
    assert client.get("/livez", headers=[("Host", "localhost"), ("Host", "evil.example")]).status_code == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8321", "http://127.0.0.1:8321.evil.example", "file://", "garbage"])
def test_pages_from_elsewhere_change_nothing(client, origin):
    for method, path in all_routes(client):
        if method == "POST":
            problem(client.request(method, path, json={"input": "hello"}, headers={"Origin": origin}), 403, "Origin")


def test_our_own_origin_and_no_origin_are_answered(client):
    assert client.post("/v1/predict", json={"input": "hello"}, headers={"Origin": URL}).status_code == 200
    assert client.post("/v1/predict", json={"input": "hello"}).status_code == 200


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", ""])
def test_only_json_is_read(client, media):
    problem(client.post("/v1/predict", content=b'{"input": "hello"}', headers={"Content-Type": media} if media else {}), 415, "Content-Type")


def test_json_with_charset_is_read_and_compressed_json_is_not(client):
    assert client.post("/v1/predict", content=b'{"input": "hello"}', headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200
    problem(client.post("/v1/predict", content=b"x", headers={**JSON, "Content-Encoding": "gzip"}), 415, "Content-Encoding")


def test_large_bodies_are_refused_by_their_word_and_while_they_stream(client):
    limit = KEYS["max_body_bytes"]
    problem(client.post("/v1/predict", content=b"x" * (limit + 1), headers=JSON), 413, "body")
    sent = []

    def stream():
        for _ in range(1000):
            sent.append(1)
            yield b"x" * 1000

    problem(client.post("/v1/predict", content=stream(), headers=JSON), 413, "body")
    assert client.post("/v1/predict", json={"inputs": ["hello " * 300] * 25}).status_code == 200  # 45 kB: under the limit


def test_a_body_where_none_belongs_is_refused(client):
    problem(client.request("GET", "/v1/release", content=b"{}", headers=JSON), 400, "body")


@pytest.mark.parametrize("body", ['{"input": ' + "[" * 33 + "]" * 33 + "}", "[" * 20000, '{"a":' * 5000, '{"input": {"text": ' + '{"a":' * 40 + "1" + "}" * 40 + "}}"])
def test_deep_json_is_refused_before_it_is_parsed(client, body):
    assert "nested deeper" in problem(client.post("/v1/predict", content=body, headers=JSON), 422, "body")["detail"]


def test_brackets_in_texts_are_no_depth(client):
    assert client.post("/v1/predict", json={"input": '[{"' * 200 + "\\"}).status_code == 200
    with pytest.raises(Problem):
        limits.require_json_text(b'"\\\\"' + b"[" * 40)
    limits.require_json_text(b'"\\"' + b"[" * 40 + b'"')
    limits.require_json_text(b"[" + b"[]," * 200 + b"[]]")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": ["a"], "input": "b"}, "inputs"),
        ({"inputs": "a"}, "inputs"),
        ({"inputs": [3]}, "inputs[0]"),
        ({"inputs": ["a", None]}, "inputs[1]"),
        ({"inputs": ["a", {"text": 5}]}, "inputs[1].text"),
        ({"inputs": ["a", {"txet": "b"}]}, "inputs[1].text"),
        ({"inputs": ["a", "  "]}, "inputs[1].text"),
        ({"input": {"text": ""}}, "input.text"),
        ({"inputs": ["a"] * 41}, "inputs"),
        ({"inputs": ["a" * 2001]}, "inputs[0].text"),
        ({"inputs": ["a\x00b"]}, "inputs[0].text"),
        ({"inputs": ["a"], "top_k": 0}, "top_k"),
        ({"inputs": ["a"], "top_k": "3"}, "top_k"),
        ({"inputs": ["a"], "model": "../../etc/passwd"}, "model"),
        ([], "body"),
    ],
)
def test_items_that_cannot_be_answered_are_named(client, body, field):
    problem(client.post("/v1/predict", json=body), 422, field)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
NAMES = st.sampled_from(["input", "inputs", "top_k", "request_id", "answer", "comment", "key", "new_label", "text"]) | st.text(max_size=5)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/predict", "/v1/feedback"]), body=st.dictionaries(NAMES, VALUES, max_size=5) | VALUES)
def test_any_json_gets_a_sane_answer(client, path, body):
    answer = client.post(path, content=json.dumps(body).encode(), headers=JSON)
    if answer.status_code != 200:
        assert problem(answer, answer.status_code)
        assert answer.status_code in (404, 409, 422)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0d8input1e.-', max_size=40).map(str.encode))
def test_any_bytes_get_a_sane_answer(client, content):
    answer = client.post("/v1/predict", content=content, headers=JSON)
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        problem(answer, 422)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"input": "\\ud800"}', b'{"input": "\xff"}', b"NaN", b'{"input": {"text": NaN}}', b'{"input": "a", "top_k": 1e999}', b'{"input": "a"} {"input": "b"}']
)
def test_broken_json_is_a_problem_and_never_a_fault(client, content):
    problem(client.post("/v1/predict", content=content, headers=JSON), 422)


def test_unknown_paths_and_methods_are_problems(client):
    problem(client.get("/v1/nothing"), 404)
    problem(client.get("/v1/predict"), 405)
    assert client.get("/v1/predict").headers["allow"] == "POST"
    problem(client.delete("/v1/release", headers=JSON), 405)


def test_feedback_fields_have_limits(client):
    for body, field in [
        ({"answer": "refund"}, "request_id"),
        ({"request_id": "x" * 41, "answer": "refund"}, "request_id"),
        ({"request_id": "x", "answer": "refund", "comment": "c" * 2001}, "comment"),
        ({"request_id": "x", "answer": "refund", "comment": "\x00"}, "body.comment"),
        ({"request_id": "x", "answer": "refund", "key": "k" * 101}, "key"),
        ({"request_id": "x", "answer": "refund", "key": ""}, "key"),
    ]:
        problem(client.post("/v1/feedback", json=body), 422, field)


def test_answers_carry_no_leave_to_other_pages(client):
    answer = client.options("/v1/predict", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.get("/v1/release").headers["x-content-type-options"] == "nosniff"


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path):
    space = Workspace(tmp_path)
    token = token_of(space, "tickets")
    assert len(token) >= 43
    assert token_of(space, "tickets") == token
    assert token_of(space, "other") != token
    path = token_file(space, "tickets")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    path.chmod(0o644)
    with pytest.raises(Refused, match="others can read"):
        token_of(space, "tickets")
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(MachineError, match="too short"):
        token_of(space, "tickets")
    space.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_machines_reach_it_only_on_purpose(workspace, host):
    assert not is_loopback(host)
    with pytest.raises(Refused, match="clear text"):
        serve.run(workspace, releases.NAME, ServeKeys(host=host, port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_is_loopback(host):
    assert is_loopback(host)


def test_what_cannot_be_served_is_told_before_anything_listens(tmp_path, workspace):
    space = Workspace(tmp_path)
    with pytest.raises(Refused, match="no approved release"):
        serve.run(space, "tickets", ServeKeys(port=0))
    space.close()
    with pytest.raises(Refused, match="did you mean 'tickets'"):
        serve.run(workspace, "tikets", ServeKeys(port=0))
    assert os.path.isdir(workspace.root)


@pytest.mark.parametrize(
    ("body", "field"),
    [('{"input": "a", "input": "b"}', "input"), ('{"input": {"text": "a", "text": "b"}}', "text"), ('{"inputs": ["a", {"text": "a", "te\\u0078t": "b"}]}', "text")],
)
def test_a_key_that_stands_twice_is_refused(client, body, field):
    assert "twice" in problem(client.post("/v1/predict", content=body, headers=JSON), 422, field)["detail"]


def test_equal_keys_of_different_objects_are_answered(client):
    body = '{"inputs": [{"text": "a"}, {"text": "a"}, "input input"]}'
    assert client.post("/v1/predict", content=body, headers=JSON).status_code == 200
