"""Answers, feedback, the request log, metrics and swaps, through the whole web application."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from attune.core.errors import IntegrityError
from attune.core.events import Events
from attune.core.ledger import FEEDBACK
from attune.core.recipe import LogKeys, ServeKeys
from attune.core.releases import open_release
from attune.stages.serve import make_app, run
from attune.stages.serve.request_log import DAY, PATIENCE
from tests import releases
from tests.serve.conftest import TOKEN, URL, all_releases, approve, folder_of

TEXTS = [text for texts in releases.TEXTS.values() for text in texts] + releases.QUESTIONS


@pytest.fixture(autouse=True)
def first_release(workspace, client):
    """Every test begins with the first release in service."""
    approve(workspace, 0)
    client.post("/v1/refresh", json={})


def ask(client, *texts, **more):
    answer = client.post("/v1/predict", json={"inputs": list(texts), **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_served_answers_equal_offline_answers_alone_and_batched(workspace, client):
    release = all_releases(workspace)[0]
    offline = open_release(workspace, release).predict([{"text": text} for text in TEXTS])
    batched = ask(client, *TEXTS)
    assert (batched["release"], batched["version"]) == (release.id, 1)
    alone = [client.post("/v1/predict", json={"input": {"text": text}}).json()["predictions"][0] for text in TEXTS]
    with ThreadPoolExecutor(12) as pool:  # the worker makes batches of whatever waits
        together = [one["predictions"][0] for one in pool.map(lambda text: ask(client, text), TEXTS)]
    for own, *others in zip(offline, batched["predictions"], alone, together, strict=True):
        for other in others:
            assert other["output"] == own.output
            assert other["probabilities"] == pytest.approx(own.scores, abs=1e-5)
            assert other["confidence"] == pytest.approx(own.confidence, abs=1e-5)
    assert len({own.output for own in offline}) == 3


def test_concurrent_requests_share_calls_of_the_model(client):
    def value(name):
        return float(next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " ")).split()[1])

    rows, batches = value("attune_rows_total"), value("attune_batches_total")
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda text: ask(client, text), TEXTS * 2))
    assert value("attune_rows_total") - rows == 2 * len(TEXTS)
    assert value("attune_batches_total") - batches < 2 * len(TEXTS)


def test_top_k_gives_the_largest_probabilities(client):
    [whole] = ask(client, "pay me back")["predictions"]
    [cut] = ask(client, "pay me back", top_k=2)["predictions"]
    assert list(whole["probabilities"]) == sorted(whole["probabilities"], key=lambda label: -whole["probabilities"][label])
    assert list(cut["probabilities"].items()) == list(whole["probabilities"].items())[:2]


def test_release_and_openapi_describe_the_endpoint(workspace, client):
    about = client.get("/v1/release").json()
    assert about["release"] == all_releases(workspace)[0].id
    assert about["labels"] == releases.LABELS
    assert about["scorecard"]["tuned"]["accuracy"] == {"value": 0.95, "low": pytest.approx(0.91), "high": pytest.approx(0.98)}
    described = client.get("/openapi.json")
    assert described.headers["content-type"] == "application/json"
    assert "earlier answer" in described.json()["components"]["schemas"]["FeedbackAnswer"]["properties"]["replaced"]["description"]
    assert {"/v1/predict", "/v1/feedback", "/v1/release", "/metrics"} <= described.json()["paths"].keys()
    for path in ("/docs", "/redoc"):  # pages that would fetch scripts from elsewhere
        assert client.get(path).status_code == 404


def test_answers_are_logged_masked_before_they_leave_and_take_feedback(workspace, client):
    text = "refund to jane.doe@example.org please, card 4111 1111 1111 1111"
    [answer] = ask(client, text)["predictions"]
    assert answer["logged"] is True
    [row] = [row for row in workspace.ledger.requests(releases.NAME) if row["id"] == answer["request_id"]]
    assert "jane.doe" not in row["input"]["text"]
    assert "4111" not in row["input"]["text"]
    assert row["input"]["text"].startswith("refund to")
    assert (row["output"], row["answer"]) == (answer["output"], None)
    body = {"request_id": answer["request_id"], "answer": "delivery", "comment": "was late", "key": "k-1"}
    assert client.post("/v1/feedback", json=body).json() == {"request_id": answer["request_id"], "key": "k-1", "stored": True, "replaced": False}
    again = client.post("/v1/feedback", json=body).json()
    assert (again["stored"], again["replaced"]) == (False, False)
    del body["key"]
    assert client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k-1"}).json()["stored"] is False
    assert client.post("/v1/feedback", json={**body, "key": "k-2"}, headers={"Idempotency-Key": "k-1"}).json()["field"] == "Idempotency-Key"
    conflict = client.post("/v1/feedback", json={**body, "answer": "refund", "key": "k-1"})
    assert (conflict.status_code, conflict.json()["field"]) == (409, "key")
    other = client.post("/v1/feedback", json={**body, "answer": "refund"}).json()
    assert (other["stored"], other["replaced"]) == (True, True)
    [row] = [row for row in workspace.ledger.requests(releases.NAME) if row["id"] == answer["request_id"]]
    assert row["answer"] == "refund"


def test_feedback_is_masked_as_the_answer_was(workspace, client, monkeypatch):
    """A right answer stays equal to the output that was logged; known labels are no personal data, whatever they look like."""
    labels = client.app.state.endpoint.current.specialist.signature["labels"]
    [answer] = ask(client, "hello")["predictions"]
    monkeypatch.setattr(client.app.state.endpoint.current.specialist, "signature", {"labels": [*labels, "help@example.org"], "multi_label": False})
    body = {"request_id": answer["request_id"], "comment": "told by jane.doe@example.org", "answer": "mail jane.doe@example.org", "new_label": True, "key": "masked"}
    assert client.post("/v1/feedback", json=body).json()["stored"]
    assert not client.post("/v1/feedback", json=body).json()["stored"]
    with workspace.ledger.engine.connect() as connection:
        [row] = connection.execute(sa.select(FEEDBACK).where(FEEDBACK.c.key == "masked"))
    assert "jane.doe" not in row.answer + row.comment
    assert json.loads(row.answer) == client.app.state.endpoint.log.masked("mail jane.doe@example.org")
    assert client.post("/v1/feedback", json={"request_id": answer["request_id"], "answer": "help@example.org"}).json()["replaced"]
    [logged] = [row for row in workspace.ledger.requests(releases.NAME) if row["id"] == answer["request_id"]]
    assert logged["answer"] == "help@example.org"


def test_feedback_that_cannot_be_used_is_refused_with_the_way_out(workspace, client):
    [answer] = ask(client, "hello")["predictions"]
    unknown = client.post("/v1/feedback", json={"request_id": "0" * 32, "answer": "refund"})
    assert (unknown.status_code, unknown.json()["field"]) == (404, "request_id")
    typo = client.post("/v1/feedback", json={"request_id": answer["request_id"], "answer": "refnud"})
    assert typo.status_code == 422
    assert "did you mean 'refund'" in typo.json()["fix"]
    assert client.post("/v1/feedback", json={"request_id": answer["request_id"], "answer": 3}).status_code == 422
    assert client.post("/v1/feedback", json={"request_id": answer["request_id"], "answer": "complaint", "new_label": True}).json()["stored"] is True


def test_sampling_is_kept_and_told_truthfully(workspace):
    app = make_app(workspace, releases.NAME, ServeKeys(log=LogKeys(sample=0.5)), token=TOKEN, poll_seconds=3600)
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answers = [one for _ in range(4) for one in ask(client, *TEXTS)["predictions"]]
    written = {row["id"] for row in workspace.ledger.requests(releases.NAME)}
    assert {one["request_id"] for one in answers if one["logged"]} == {one["request_id"] for one in answers} & written
    share = sum(one["logged"] for one in answers) / len(answers)
    assert 0.25 < share < 0.75  # 120 draws of 0.5: five standard deviations


def test_a_ledger_that_does_not_answer_delays_answers_a_little_and_never_lies(workspace, monkeypatch, told, client):
    log = client.app.state.endpoint.log
    held = threading.Event()
    write = log.ledger.log_requests

    def slow(rows):
        held.wait(20)
        write(rows)

    monkeypatch.setattr(log.ledger, "log_requests", slow)
    first = ask(client, "hello", "again")["predictions"]  # its commit hangs
    second = ask(client, "pay me back")["predictions"]  # waits behind it, is withdrawn
    assert [one["logged"] for one in first + second] == [False] * 3
    held.set()
    monkeypatch.setattr(log.ledger, "log_requests", write)
    third = ask(client, "pay me back")["predictions"]
    assert third[0]["logged"] is True  # so everything before it was dealt with
    written = {row["id"] for row in workspace.ledger.requests(releases.NAME)}
    assert second[0]["request_id"] not in written

    def broken(rows):
        raise RuntimeError("no disk")

    monkeypatch.setattr(log.ledger, "log_requests", broken)
    assert [one["logged"] for one in ask(client, "hello")["predictions"]] == [False]
    assert any("could not be logged" in message for message in told.warnings())
    assert PATIENCE < 1


def test_retention_is_applied_at_the_start(workspace):
    old = (datetime.now(UTC) - timedelta(days=8)).isoformat(timespec="microseconds")
    young = (datetime.now(UTC) - timedelta(days=6)).isoformat(timespec="microseconds")
    row = {"specialist": releases.NAME, "release_id": "r", "input": "{}", "output": '"refund"', "confidence": 1.0}
    workspace.ledger.log_requests([{**row, "id": "old", "at": old}, {**row, "id": "young", "at": young}])
    app = make_app(workspace, releases.NAME, ServeKeys(log=LogKeys(retention_days=7)), token=TOKEN, poll_seconds=3600)
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        ask(client, "hello")  # written by the same thread, after the deletion
        left = {one["id"] for one in workspace.ledger.requests(releases.NAME)}
        assert "young" in left
        assert "old" not in left
        workspace.ledger.log_requests([{**row, "id": "old", "at": old}])
        ask(client, "hello")
        assert "old" in {one["id"] for one in workspace.ledger.requests(releases.NAME)}
        app.state.endpoint.log._forgotten_at -= DAY  # a day goes by
        ask(client, "hello")
        ask(client, "hello")  # the first was written before the deletion, this one after it
        assert "old" not in {one["id"] for one in workspace.ledger.requests(releases.NAME)}


def test_another_release_is_taken_when_it_is_approved(workspace, client):
    before = ask(client, "pay me back")
    release = approve(workspace, 1)
    assert ask(client, "pay me back")["release"] == before["release"]  # not yet looked
    assert client.post("/v1/refresh", json={}).json()["release"] == release.id
    after = ask(client, "pay me back")
    assert (after["release"], after["version"]) == (release.id, 2)
    offline = open_release(workspace, release).predict([{"text": "pay me back"}])[0]
    assert after["predictions"][0]["probabilities"] == pytest.approx(offline.scores, abs=1e-5)
    assert f'attune_release{{release="{release.id}",version="2"}} 1.0' in client.get("/metrics").text
    assert before["release"] not in client.get("/metrics").text


def test_a_damaged_release_never_answers(workspace, client, told):
    good = ask(client, "hello")["release"]
    damaged = approve(workspace, 2)
    weights = folder_of(workspace, damaged) / "model" / "head.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert client.post("/v1/refresh", json={}).json()["release"] == good
        assert client.get("/readyz").status_code == 200
        assert ask(client, "hello")["release"] == good
        assert any("release 3 is approved but cannot be served" in message for message in told.warnings())
        assert float(next(line for line in client.get("/metrics").text.splitlines() if line.startswith("attune_releases_refused_total ")).split()[1]) >= 1
    finally:
        weights.write_bytes(whole)
    assert client.post("/v1/refresh", json={}).json()["release"] == damaged.id  # mended: the clean twin is taken


def test_a_damaged_release_is_not_served_from_the_start(workspace):
    release = approve(workspace, 1)
    card = folder_of(workspace, release) / "README.md"
    whole = card.read_text()
    card.write_text(whole + "\n")
    try:
        with pytest.raises(IntegrityError, match=r"README\.md"):
            run(workspace, releases.NAME, ServeKeys(port=0))
    finally:
        card.write_text(whole)


def test_while_it_drains_it_is_not_ready_still_answers_and_closes_connections(workspace):
    app = make_app(workspace, releases.NAME, ServeKeys(), token=TOKEN, poll_seconds=3600)
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/readyz").status_code == 200
        assert "connection" not in client.post("/v1/predict", json={"input": "hello"}).headers
        app.state.endpoint.draining = True
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        answer = client.post("/v1/predict", json={"input": "hello"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_a_release_that_answers_nonsense_fails_the_smoke_test(workspace, client, told):
    import torch

    model = releases.specialist(5.0)
    with torch.no_grad():
        model.model.head.bias[0] = float("nan")
    released = releases.release(workspace, model=model)
    workspace.ledger.promote(released, action="promote", actor="test", reason="past every gate", forced=True)
    good = ask(client, "hello")["release"]
    assert client.post("/v1/refresh", json={}).json()["release"] == good
    assert any("not a number" in message for message in told.warnings())


def test_one_bad_row_fails_only_its_own_request(workspace, client, monkeypatch):
    served = client.app.state.endpoint.current
    task = type(served.specialist.task)
    predict = task.predict
    gate = threading.Event()

    def brittle(self, specialist, rows):
        gate.wait(20)
        if any(row["text"] == "poison" for row in rows):
            raise ValueError("cannot")
        return predict(self, specialist, rows)

    monkeypatch.setattr(task, "predict", brittle)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/v1/predict", json={"input": text}) for text in ["poison" if n == 4 else f"text {n}" for n in range(8)]]
        gate.set()
        statuses = [one.result().status_code for one in asked]
    assert statuses == [500 if n == 4 else 200 for n in range(8)]
    problem = asked[4].result()
    assert problem.headers["content-type"] == "application/problem+json"
    assert "cannot" not in problem.text


def test_too_many_in_hand_are_told_to_come_back(workspace, monkeypatch):
    app = make_app(workspace, releases.NAME, ServeKeys(max_waiting=3), token=TOKEN, poll_seconds=3600, events=Events())
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        task = type(app.state.endpoint.current.specialist.task)
        predict = task.predict
        gate = threading.Event()
        monkeypatch.setattr(task, "predict", lambda self, specialist, rows: (gate.wait(20), predict(self, specialist, rows))[1])
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(client.post, "/v1/predict", json={"input": "hello"}) for _ in range(12)]
            refused = []
            while len(refused) < 9:  # three wait for the model, nine have been told
                refused = [one.result() for one in asked if one.done()]
            assert client.get("/livez").status_code == 200  # health keeps answering
            assert client.get("/readyz").status_code == 200
            gate.set()
            answers = [one.result() for one in asked]
    assert sorted(one.status_code for one in answers) == [200] * 3 + [503] * 9
    assert {one.headers["retry-after"] for one in answers if one.status_code == 503} == {"1"}


def test_metrics_count_by_route_and_status(client):
    ask(client, "hello")
    client.get("/nothing/here")
    text = client.get("/metrics").text
    assert 'attune_requests_total{route="/v1/predict",status="200"}' in text
    assert 'attune_requests_total{route="other",status="404"}' in text
    assert "nothing/here" not in text
    assert "attune_request_seconds_bucket" in text
    assert "attune_in_flight 1.0" in text


def test_what_was_sent_is_repeated_nowhere(client, told):
    secret = "canary-7781"
    answers = [
        client.post("/v1/predict", json={"inputs": [{"text": 5, "more": secret}]}),
        client.post("/v1/predict", json={"inputs": ["x"], "top_k": secret}),
        client.post("/v1/predict", content=f'{{"inputs": ["{secret}"', headers={"Content-Type": "application/json"}),
        client.post("/v1/feedback", json={"request_id": secret, "answer": secret}),
        client.post("/v1/feedback", json={"request_id": secret, "answer": "refund", "key": secret}),
    ]
    assert [answer.status_code for answer in answers] == [422, 422, 422, 422, 404]
    assert not [answer.text for answer in answers if secret in answer.text]
    ask(client, secret)
    assert secret not in json.dumps(told.events)
    assert secret not in client.get("/metrics").text
