"""A generation graded from end to end: probes with figures that gates ask about, companions that nobody has to beat, a report that shows them."""

from __future__ import annotations

import json

import pytest

from attune import lifecycle
from attune.core import jail
from attune.core import rows as core_rows
from attune.core.errors import Problems, RecipeError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.records import Checkpoint
from attune.core.workspace import Workspace
from attune.stages import grade
from attune.testing.models import tiny_llama
from tests.grade.conftest import make_dataset, tuned

CITIES = ("Oslo", "Rome", "Lima", "Cairo")
ASKED = ("Where is the office of {}?", "Which city is in branch {}?", "Tell me the city of {}.")


def rows(number: int) -> list[dict]:
    found = []
    for n in range(number):
        values = {"prompt": [{"role": "user", "content": f"{ASKED[n % 3].format(CITIES[n % 4])} Case {n}."}], "completion": f"It is {CITIES[n % 4]}."}
        found.append({"row_id": core_rows.row_id(values, n), "place": f"cities.jsonl:{n + 1}", **values})
    return found


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    every = rows(110)
    base = tiny_llama(folder / "base", [f"{row['prompt'][0]['content']} {row['completion']}" for row in every])
    values = {
        "name": "cities",
        "task": {"name": "text_generation", "max_new_tokens": 8},
        "base_model": str(base),
        "method": "full",
        "data": {"path": "cities.jsonl"},
        "train": {"max_length": 96, "epochs": 6, "learning_rate": 0.003},
        "grade": {
            "resamples": 300,
            "rivals": ["untouched_base", {"name": "prompted_base", "examples": [0, 2], "tries": 6}, {"name": "tuned_with_retrieval", "passages": [1]}],
            "probes": [{"name": "win_rate", "rows": 40}, "forgetting", {"name": "refusals", "rows": 32}, "memorisation"],
        },
        "gates": [
            {"metric": "token_f1", "better_than": "best_rival"},
            {"metric": "win_rate_against_untouched_base", "at_least": 0.5},
            {"metric": "forgetting", "at_most": 1.5},
            {"metric": "forgetting", "at_most": -0.5},
            {"metric": "general_perplexity", "better_than": "untouched_base", "by": -1},
            {"metric": "perplexity", "better_than": "best_rival"},
        ],
    }
    made = make_recipe(values, folder=folder)
    workspace = Workspace(folder / "workspace")
    dataset = make_dataset(workspace, made, {"train": every[:60], "validation": every[60:70], "test": every[70:]})
    checkpoint = tuned(workspace, made, dataset)
    return made, workspace, grade.run(made, workspace, dataset, checkpoint, Events())


def test_gates_ask_about_what_probes_measured(graded):
    _, _, card = graded
    by_gate = {one.gate: one for one in card.gates}
    assert by_gate["win_rate_against_untouched_base at least 50.0%"].outcome == "pass"
    assert by_gate["forgetting at most 150.0%"].outcome == "pass"
    assert by_gate["forgetting at most -50.0%"].outcome == "fail"
    assert "general_perplexity not worse than untouched base by more than 1.000" in by_gate
    assert by_gate["perplexity better than best rival"].outcome == "pass"
    assert card.verdict == "NO-SHIP"


def test_probes_have_intervals_and_paired_tests(graded):
    _, workspace, card = graded
    found = card.probes["forgetting"]["measures"]["general_perplexity"]
    assert set(found["results"]) == {"tuned", "untouched_base"}
    assert found["results"]["tuned"]["low"] < found["results"]["tuned"]["value"] < found["results"]["tuned"]["high"]
    assert found["comparisons"][0]["rival"] == "untouched_base"
    assert 0 < found["comparisons"][0]["p_value"] <= 1
    written = json.loads((workspace.store.path(card.store_key) / "scorecard.json").read_text())
    assert written["companions"] == ["tuned_with_retrieval"]
    assert written["rivals_said"]["prompted_base"].endswith("on validation rows")
    assert written["probes"]["memorisation"]["rows"] == 0


def test_a_companion_is_shown_and_never_the_best_rival(graded):
    _, _, card = graded
    assert "tuned_with_retrieval" in card.results
    assert all("tuned with retrieval" not in reason for reason in card.reasons)


def test_the_report_shows_it(graded):
    _, workspace, card = graded
    page = (workspace.store.path(card.store_key) / "report.html").read_text()
    for said in ("general perplexity", "harmless refused", "win rate against untouched base", "not known yet", "no value is better than another", "examples in the prompt, chosen among 0, 2"):
        assert said in page, said
    assert "Answers in other words" in page
    assert "answered wrong" not in page, "other words need not be wrong"


def test_gates_on_what_no_probe_measures_are_refused(tmp_path):
    values = {"name": "x", "task": "text_generation", "base_model": str(tiny_llama(tmp_path / "base", ["a"])), "data": {"path": "x.jsonl"}}
    with pytest.raises(Problems, match="no probe of this recipe measures it"):
        make_recipe({**values, "gates": [{"metric": "forgetting", "at_most": 0.1}]}, folder=tmp_path)
    with pytest.raises(Problems, match=r"did you mean at_most: 0\.1"):
        make_recipe({**values, "grade": {"probes": ["refusals"]}, "gates": [{"metric": "harmless_refused", "at_most": 10}]}, folder=tmp_path)
    assert make_recipe({**values, "grade": {"probes": ["forgetting"]}, "gates": [{"metric": "forgetting", "at_most": 0.1}]}, folder=tmp_path)


def test_a_file_that_a_probe_reads_must_be_there_before_anything_is_trained(tmp_path):
    values = {"name": "x", "task": "text_generation", "base_model": str(tiny_llama(tmp_path / "base", ["a"])), "data": {"path": "x.jsonl"}}
    made = make_recipe({**values, "grade": {"probes": [{"name": "forgetting", "general": "general.csv"}]}}, folder=tmp_path)
    with pytest.raises(Problems, match=r"there is no .*general\.csv', which probe 'forgetting' reads"):
        made.plugs("probes", made.keys.grade.probes, ())
    (tmp_path / "general.csv").write_text("txt\nThe sea is deep.\n")
    with pytest.raises(Problems, match="neither a prompt nor a text"):
        grade.check(made)
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"prompt": row["prompt"], "completion": row["completion"]}) for row in rows(60)))
    workspace = Workspace(tmp_path / "workspace")
    with pytest.raises(Problems, match="neither a prompt nor a text"):
        lifecycle.run(made, workspace)
    assert workspace.ledger.find(Checkpoint) == []
    workspace.close()
    (tmp_path / "general.csv").write_text("text\nThe sea is deep.\n")
    grade.check(made)
    (probe,) = made.plugs("probes", made.keys.grade.probes, ())
    assert probe.folder == tmp_path


@pytest.mark.skipif(bool(jail.holds()), reason="this machine cannot shut the jail")
def test_sampled_programs_are_graded_for_model_and_rivals(tmp_path):
    """Every prompt is a program that ends in a comment: an answer on one line passes."""
    every = rows(40)
    every = [{**row, "prompt": [{"role": "user", "content": f"x = {n}  # {row['prompt'][0]['content']} "}], "tests": f"assert x == {n}"} for n, row in enumerate(every)]
    base = tiny_llama(tmp_path / "base", [f"{row['prompt'][0]['content']}\n{row['completion']}\n" for row in every])
    programs = {"with_prompt": True, "seconds": 20.0}
    values = {
        "name": "programs",
        "task": {"name": "text_generation", "max_new_tokens": 6},
        "base_model": str(base),
        "method": "full",
        "data": {"path": "x.jsonl"},
        "train": {"max_length": 96, "epochs": 1, "learning_rate": 0.003},
        "grade": {
            "resamples": 200,
            "metrics": [{"name": "pass_at_1", **programs}, {"name": "pass_at_k", "k": 2, "samples": 3, "temperature": 1.5, **programs}],
            "rivals": ["untouched_base"],
            "probes": [],
        },
        "gates": [{"metric": "pass_at_k", "at_least": 0.1}],
    }
    made = make_recipe(values, folder=tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    dataset = make_dataset(workspace, made, {"train": every[:24], "validation": every[24:30], "test": every[30:]})
    card = grade.run(made, workspace, dataset, tuned(workspace, made, dataset), Events())
    for who in ("tuned", "untouched_base"):
        assert 0 < card.results[who]["pass_at_k"].value <= 1
    made.keys.grade.metrics.append({"name": "pass_at_k", "temperature": 0.1})
    with pytest.raises(RecipeError, match="several temperatures"):
        grade.check(made)
    workspace.close()
