"""Judges, and the probe that asks them: both orders, ties, position bias, and people through a file."""

from __future__ import annotations

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from attune.catalog.judges._asking import verdict
from attune.core import catalog
from attune.core.contents import contents
from attune.core.contracts import Duel, Prediction, ProbeContext
from attune.core.errors import DataError, MachineError, PlugError, RecipeError
from attune.stages.grade.probing import measured_probes
from attune.testing.models import tiny_llama

RIGHT = [f"the parcel number {n} is on its way" for n in range(8)]
ROWS = [{"row_id": str(n), "prompt": [{"role": "user", "content": f"Where is parcel {n}?"}], "completion": text} for n, text in enumerate(RIGHT)]


def context(tuned, other, rows=ROWS):
    task = catalog.build("tasks", "text_generation")
    answers = {"tuned": [Prediction(one) for one in tuned], "untouched_base": [Prediction(one) for one in other]}
    return ProbeContext(SimpleNamespace(task=task), rows, 7, answers=answers)


def probe(judge="reference", folder=Path(), **keys):
    made = catalog.build("probes", {"name": "win_rate", "judge": judge, **keys})
    made.folder = folder
    return made


class Endpoint:
    """A server on the loopback that answers chat completions by a function of the question."""

    def __init__(self, reply, failures=0):
        seen, left = self.seen, _ = [], [failures]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, self.headers.get("Authorization"), body))
                if left[0] > 0:
                    left[0] -= 1
                    self.send_response(503)
                    self.end_headers()
                    return
                said = json.dumps({"choices": [{"message": {"content": reply(body["messages"][0]["content"])}}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def test_right_answers_win_wrong_ones_lose_and_equal_ones_tie():
    won = probe().run(context(RIGHT, ["no idea"] * 8))
    assert (won.value, won.rows) == (1.0, 8)
    assert won.measures[0].name == "win_rate_against_untouched_base"
    assert won.measures[0].rows["untouched_base"][:, 0].tolist() == [0.0] * 8
    lost = probe().run(context(["no idea"] * 8, RIGHT))
    assert lost.value == 0.0
    assert lost.examples[0]["tuned"] == "no idea"
    assert probe().run(context(RIGHT, RIGHT)).value == 0.5
    assert list(probe().gated()) == ["win_rate_against_untouched_base"]


def test_rows_of_one_customer_are_one_piece_of_evidence():
    """Four customers with two rows each: the interval is that of four, not of eight."""
    grouped = [{**row, "group": f"customer {n // 2}"} for n, row in enumerate(ROWS)]
    tuned = [right if n % 4 < 2 else "no idea" for n, right in enumerate(RIGHT)]
    other = ["no idea" if n % 4 < 2 else right for n, right in enumerate(RIGHT)]
    plug = probe()
    alone, together = (measured_probes({"win_rate": plug}, {"win_rate": plug.run(context(tuned, other, rows))}, 400, 0.95, 1)[1]["win_rate_against_untouched_base"] for rows in (ROWS, grouped))
    assert (alone.rows, together.rows) == (8, 4)
    one, four = alone.estimates["tuned"], together.estimates["tuned"]
    assert one.value == four.value == 0.5
    assert four.high - four.low > 1.2 * (one.high - one.low)


def test_a_judge_that_always_likes_the_first_answer_is_seen_through():
    with Endpoint(lambda asked: "A") as server:
        found = probe({"name": "openai_endpoint", "url": server.url}).run(context(RIGHT, ["no idea"] * 8))
    assert found.value == 0.5
    assert "the answer shown first won 100% of 16 judgements" in found.meaning
    assert "8 of 8 changed with the order" in found.meaning


def test_a_fair_judge_at_an_address_is_asked_in_both_orders(monkeypatch):
    def fair(asked):
        first = asked.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
        return "A" if "on its way" in first else "The better one is B."

    monkeypatch.setenv("JUDGE_KEY", "secret")
    with Endpoint(fair, failures=2) as server:
        found = probe({"name": "openai_endpoint", "url": server.url, "model": "judge", "key_variable": "JUDGE_KEY"}).run(context(RIGHT, ["no idea"] * 8))
        assert len(server.seen) == 18
        assert {(path, key, body["model"], body["temperature"]) for path, key, body in server.seen} == {("/v1/chat/completions", "Bearer secret", "judge", 0)}
        assert all(ROWS[0]["completion"] not in body["messages"][0]["content"] or "Where is parcel 0?" in body["messages"][0]["content"] for *_, body in server.seen)
    assert found.value == 1.0
    assert "won 50% of 16 judgements" in found.meaning
    assert "0 of 8 changed with the order" in found.meaning


def test_replies_that_say_nothing_are_counted_and_dead_addresses_told(monkeypatch):
    with Endpoint(lambda asked: "Both A and B have merits.") as server:
        found = probe({"name": "openai_endpoint", "url": server.url}).run(context(RIGHT, ["no idea"] * 8))
        url = server.url
    assert found.value != found.value
    assert "16 judgements are missing" in found.meaning
    with pytest.raises(MachineError, match="gave no reply"):
        probe({"name": "openai_endpoint", "url": url, "tries": 1}).run(context(RIGHT, ["no idea"] * 8))
    with pytest.raises(MachineError, match="NO_SUCH_KEY is empty"):
        probe({"name": "openai_endpoint", "url": url, "key_variable": "NO_SUCH_KEY"}).run(context(RIGHT, ["no idea"] * 8))


@pytest.mark.parametrize(("said", "wanted"), [("A", 1.0), (" b.", None), ("B", 0.0), ("TIE", 0.5), ("It is a tie", 0.5), ("A or B", None), ("", None), ("**A**", 1.0), ("Answer A.", 1.0)])
def test_how_replies_are_read(said, wanted):
    assert verdict(said) == wanted


@pytest.mark.parametrize("name", ["judgements.csv", "judgements.json"])
def test_people_judge_through_a_file(tmp_path, name):
    judge = {"name": "people", "file": name}
    other = ["=HYPERLINK(1)", *["no idea"] * 7]
    assert not contents([probe(judge, tmp_path)])
    first = probe(judge, tmp_path).run(context(RIGHT, other))
    assert first.value != first.value
    assert "nothing was judged yet" in first.meaning
    path = tmp_path / name
    empty = contents([probe(judge, tmp_path)])
    rows = json.loads(path.read_text()) if name.endswith("json") else list(csv.DictReader(path.open(newline="", encoding="utf-8-sig")))
    assert len(rows) == 8
    assert all(row["id"].startswith("duel ") for row in rows), "a spreadsheet would take digits for a number"
    assert {row["answer_1"] in RIGHT for row in rows} == {True, False}, "the order is not drawn"
    if name.endswith("csv"):
        assert not any(cell.startswith("=") for row in rows for cell in row.values()), "a spreadsheet would compute it"
    for row in rows[:6]:
        row["better"] = "1" if row["answer_1"] in RIGHT else "2"
    rows[6]["better"] = " Tie "
    if name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    assert list(contents([probe(judge, tmp_path)])) == [name]
    assert contents([probe(judge, tmp_path)]) != empty, "grading again would not notice what was filled in"
    again = probe(judge, tmp_path).run(context(RIGHT, other))
    assert (again.rows, again.value) == (7, pytest.approx(6.5 / 7))
    assert "1 judgements are missing" in again.meaning


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8-sig", ","), ("utf-8", ";"), ("cp1252", ";"), ("cp1252", ","), ("utf-16", "\t")])
def test_people_may_save_in_whatever_way_their_program_does(tmp_path, encoding, delimiter):
    judge = {"name": "people"}
    other = ["café für alle; |a, b|", "zwei\nZeilen, “so”", *["no idea"] * 6]
    probe(judge, tmp_path).run(context(RIGHT, other))
    path = tmp_path / "judgements.csv"
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "a spreadsheet would take it for another encoding"
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert any("café" in cell for row in rows for cell in row.values())
    for row in rows[:7]:
        row["better"] = "1" if row["answer_1"] in RIGHT else "2"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    assert probe(judge, tmp_path).run(context(RIGHT, other)).rows == 7
    probe(judge, tmp_path).run(context(RIGHT, ["something new", *other[1:]]))
    with path.open(newline="", encoding="utf-8-sig") as file:
        kept = {row["id"]: row for row in csv.DictReader(file)}
    assert [kept[row["id"]] for row in rows] == rows, "what was filled in stays as it was"
    assert len(kept) == 9


def test_what_people_wrote_wrongly_is_placed(tmp_path):
    judge = {"name": "people"}
    probe(judge, tmp_path).run(context(RIGHT, ["no idea"] * 8))
    path = tmp_path / "judgements.csv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace(",\n", ",left\n"))
    with pytest.raises(DataError, match="'left' does not say which answer is better"):
        probe(judge, tmp_path).run(context(RIGHT, ["no idea"] * 8))
    path.write_text("something else\n1\n")
    with pytest.raises(DataError, match="column 'id' is missing") as told:
        probe(judge, tmp_path).run(context(RIGHT, ["no idea"] * 8))
    assert "remove" not in told.value.fix, "nobody is told to throw judgements away"
    path.write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        probe(judge, tmp_path).run(context(RIGHT, ["no idea"] * 8))


def test_a_local_model_judges_by_likelihood_alike_in_both_orders(tmp_path):
    folder = tiny_llama(tmp_path / "judge", RIGHT)
    judge = catalog.build("judges", {"name": "local_model", "base": str(folder), "by": "likelihood"})
    duels = [Duel("1", "q", None, "parcel", "zzzz qqqq"), Duel("2", "q", None, "zzzz qqqq", "parcel"), Duel("3", "q", None, "same", "same")]
    said = judge.prefer(duels)
    assert said[0] == 1 - said[1]
    assert said[2] == 0.5
    asked = catalog.build("judges", {"name": "local_model", "base": str(folder)}).prefer(duels)
    assert set(asked) <= {0.0, 0.5, 1.0}
    with pytest.raises(RecipeError, match="no model"):
        catalog.build("judges", "local_model").prefer(duels)


def test_a_judge_that_does_not_exist_is_told_when_the_recipe_is_read():
    with pytest.raises(PlugError, match="no judge 'pepole'"):
        probe("pepole")


def test_contestants_that_write_nothing_are_named():
    given = context(RIGHT, RIGHT)
    given.answers["longer_answer"] = [Prediction(None, extra={"margin": 3.0}) for _ in ROWS]
    with pytest.raises(RecipeError, match="'longer_answer' writes no answers"):
        probe(against=["untouched_base", "longer_answer"]).run(given)


def test_contestants_that_are_not_there_are_named():
    with pytest.raises(RecipeError, match="no contestant 'prompted_base'"):
        probe(against=["prompted_base"]).run(context(RIGHT, RIGHT))
