"""Metrics of texts against the libraries that define them, on real rows, and against planted faults."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from attune.catalog.metrics.pass_at_k import chance
from attune.core import catalog, jail
from attune.core.answers import last_number
from attune.core.contracts import Prediction
from attune.core.errors import DataError, RecipeError
from attune.core.programs import program_of
from attune.testing.bench import bench

SHARED = Path(os.environ.get("ATTUNE_TEST_SHARED") or Path(__file__).resolve().parents[3] / "shared")
needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data folder is not there")


def score(name, truth, said, rows=None, **keys):
    metric = catalog.build("metrics", {"name": name, **keys})
    rows = rows if rows is not None else [{} for _ in truth]
    return float(metric.value(metric.of_rows(rows, truth, [one if isinstance(one, Prediction) else Prediction(one) for one in said], {}).sum(0)))


def pairs(most=120):
    """Right answers of maths problems and what a model wrote: real texts with much and little in common."""
    with (SHARED / "data" / "gsm8k" / "example_model_solutions.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(most), strict=False)]
    return [row["ground_truth"] for row in rows], [row["6b_finetuning"]["solution"] for row in rows]


ODD = (["", "Größe und Maß, naïve café", "one two three", "日本語の文", "a"], ["something", "die Größe, das Mass", "one two three", "日本の文章", ""])


@needs_data
def test_rouge_l_is_that_of_rouge_score_row_by_row():
    from rouge_score.rouge_scorer import RougeScorer

    truth, said = pairs()
    scorer = RougeScorer(["rougeL"])
    wanted = [scorer.score(right, one)["rougeL"].fmeasure for right, one in zip(truth, said, strict=True)]
    metric = catalog.build("metrics", "rouge_l")
    found = metric.contributions(truth, [Prediction(one) for one in said], {})
    assert found[:, 0] == pytest.approx(wanted, abs=1e-12)
    assert 0.2 < score("rouge_l", truth, said) < 0.8


def test_rouge_l_by_hand_and_in_other_scripts():
    assert score("rouge_l", ["police killed the gunman"], ["the gunman killed police"]) == pytest.approx(0.5)
    assert score("rouge_l", ["Größe zählt"], ["GRÖSSE zählt"]) == pytest.approx(0.5)
    assert score("rouge_l", ["слова важны"], ["слова важны"]) == 1
    assert score("rouge_l", [["not this", "but this one"]], ["but this one"]) == 1
    assert score("rouge_l", [""], [""]) == 0


@needs_data
@pytest.mark.parametrize("keys", [{}, {"lowercase": True}, {"tokenize": "char"}])
def test_bleu_is_that_of_sacrebleu(keys):
    from sacrebleu.metrics.bleu import BLEU

    truth, said = pairs()
    library = BLEU(**keys)
    for begin, end in ((0, 120), (0, 1), (5, 9)):
        assert score("bleu", truth[begin:end], said[begin:end], **keys) == pytest.approx(library.corpus_score(said[begin:end], [truth[begin:end]]).score / 100, abs=1e-12)


def test_bleu_of_texts_with_nothing_in_common_or_nothing_at_all():
    from sacrebleu.metrics.bleu import BLEU

    for truth, said in (ODD, (["a b c d"], ["a b c e"]), (["x"], ["x"]), (["a b"], ["c d"]), (["a b"], [""])):
        assert score("bleu", truth, said) == pytest.approx(BLEU().corpus_score(said, [truth]).score / 100, abs=1e-12)


@needs_data
def test_chrf_is_that_of_sacrebleu():
    from sacrebleu.metrics.chrf import CHRF

    truth, said = pairs()
    for begin, end in ((0, 120), (0, 1), (5, 9)):
        assert score("chrf", truth[begin:end], said[begin:end]) == pytest.approx(CHRF().corpus_score(said[begin:end], [truth[begin:end]]).score / 100, abs=1e-9)


def test_chrf_of_odd_texts_and_of_the_nearest_right_text():
    from sacrebleu.metrics.chrf import CHRF

    assert score("chrf", *ODD) == pytest.approx(CHRF().corpus_score(ODD[1], [ODD[0]]).score / 100, abs=1e-9)
    assert score("chrf", [["far away", "near by"]], ["near by"]) == 1
    assert math.isnan(score("chrf", [], []))


@needs_data
def test_numbers_agree_with_the_data_sets_own_verdicts():
    with (SHARED / "data" / "gsm8k" / "example_model_solutions.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    metric = catalog.build("metrics", "numeric_match")
    for model in ("6b_finetuning", "175b_verification"):
        found = metric.contributions([row["ground_truth"] for row in rows], [Prediction(row[model]["solution"]) for row in rows], {})[:, 0]
        theirs = np.array([row[model]["is_correct"] for row in rows])
        assert (found == theirs).mean() > 0.995


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $1,234.50.", "1234.50"),
        ("from 3 to −7", "-7"),
        ("10-3=7", "7"),
        ("v2.0.1 is .5", "0.5"),
        ("no number", None),
        ("1,2,3", "3"),
        ("so 1/2", "0.5"),
        ("−3/4 of it", "-0.75"),
        ("1e3 apples", "1000"),
        ("+4", "4"),
        ("7" * 5000, None),
        ("1e999999999", "1"),
        ("-$5", "-5"),
        ("about 1,000,000 people", "1000000"),
        ("5%", "5"),
    ],
)
def test_the_last_number(text, number):
    assert (None if (found := last_number(text)) is None else float(found)) == (None if number is None else float(number))


def test_numbers_within_a_tolerance_and_rows_without_one():
    assert score("numeric_match", ["#### 100"], ["101"]) == 0
    assert score("numeric_match", ["#### 100"], ["101"], tolerance=0.01) == 1
    assert score("numeric_match", ["none", "3"], ["4", "it is 3.0"]) == 1
    assert math.isnan(score("numeric_match", ["none"], ["4"]))


def test_perplexity_is_over_tokens_not_rows_and_unknown_without_a_likelihood():
    known = [Prediction("", extra={"nll": 2.0, "nll_tokens": 1}), Prediction("", extra={"nll": 1.0, "nll_tokens": 3})]
    assert score("perplexity", ["", ""], known) == pytest.approx(math.exp(3 / 4))
    assert math.isnan(score("perplexity", ["", ""], [*known[:1], Prediction("")]))


def test_json_that_is_valid_and_json_that_only_looks_so(tmp_path):
    said = ['{"a": 1}', "```json\n[1, 2]\n```", '{"a": 1', "{'a': 1}", '{"a": NaN}', "Here it is: {}", "[" * 100_000]
    metric = catalog.build("metrics", "json_valid")
    assert metric.contributions([""] * len(said), [Prediction(one) for one in said], {})[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert score("json_valid", [""], said[1:2], fenced=False) == 0
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    by_file = catalog.build("metrics", {"name": "json_valid", "schema": "schema.json"})
    by_file.folder = tmp_path
    inline = catalog.build("metrics", {"name": "json_valid", "json_schema": schema})
    answers = [Prediction(one) for one in ('{"a": 1}', '{"a": "1"}', "{}", "3")]
    for one in (by_file, inline):
        assert one.contributions([""] * 4, answers, {})[:, 0].tolist() == [1, 0, 0, 0]
    assert by_file.reads() == (tmp_path / "schema.json",)
    assert not inline.reads()
    for wrong in ("nowhere.json", {"type": "no such type"}):
        with pytest.raises(RecipeError, match="schema"):
            score("json_valid", [""], ["{}"], json_schema=wrong)


def test_length_is_neutral():
    metric = catalog.build("metrics", "answer_length")
    assert metric.neutral
    assert score("answer_length", ["", ""], ["one two  three", ""]) == 1.5


@needs_data
def test_reference_programs_pass_and_those_of_other_tasks_do_not():
    with (SHARED / "data" / "mbpp" / "mbpp.jsonl").open(encoding="utf-8") as file:
        given = [json.loads(line) for line, _ in zip(file, range(40), strict=False)]
    rows = [{"prompt": [{"role": "user", "content": one["text"]}], "tests": "\n".join([one.get("test_setup_code", ""), *one["test_list"]])} for one in given]
    programs = [one["code"] for one in given]
    assert score("pass_at_1", programs, [f"Here:\n```python\n{one}\n```\nDone." for one in programs], rows) == 1
    assert score("pass_at_1", programs, [*programs[1:], programs[0]], rows) == 0


@needs_data
def test_human_eval_goes_on_where_the_prompt_ends():
    with gzip.open(SHARED / "data" / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line, _ in zip(file, range(20), strict=False)]
    rows = [{"prompt": [{"role": "user", "content": one["prompt"]}], "tests": f"{one['test']}\ncheck({one['entry_point']})"} for one in given]
    right = [one["canonical_solution"] for one in given]
    assert score("pass_at_1", right, right, rows, with_prompt=True) == 1
    assert score("pass_at_1", right, ["    return None"] * 20, rows, with_prompt=True) == 0


def test_rows_without_tests_are_named():
    for name in ("pass_at_1", "pass_at_k"):
        with pytest.raises(DataError, match="no row has unit tests"):
            score(name, ["x"], ["x"], [{}])


def test_the_chance_that_one_of_k_passes_is_that_of_all_choices():
    """The formula against every choice of k among n samples."""
    for n, c, k in ((5, 0, 2), (5, 2, 2), (6, 1, 3), (6, 4, 3), (4, 4, 4), (7, 3, 1), (3, 1, 3)):
        choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert chance(n, c, k) == pytest.approx(sum(any(one) for one in choices) / len(choices))
    assert chance(200, 1, 100) == pytest.approx(0.5)


@pytest.mark.skipif(bool(jail.holds()), reason="this machine cannot shut the jail")
@pytest.mark.parametrize("tests", [["assert f() == 1"], "assert f() == 1", "['assert f() == 1']"])
def test_a_list_of_tests_is_not_a_program_that_passes_everything(tests):
    good, bad = "def f():\n    return 1", "def f():\n    return 2"
    rows = [{"row_id": "a", "tests": tests}]
    for name in ("pass_at_1", "pass_at_k"):
        assert score(name, [""], [bad], rows) == 0
        assert score(name, [""], [good], rows) == 1
    reward = catalog.build("rewards", "unit_tests")
    assert reward.score(rows * 2, [bad, good]) == [0, 1]


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("First:\n```python\nx = 1\n```\nor\n```python\nx = 2\n```", "x = 1"),
        ("```bash\npip install x\n```\nThen:\n```py\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("It prints\n```\n5 apples\n```\nby\n```Python3\n    x = 1\n\n```", "    x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```js\nlet x\n```", "```js\nlet x\n```"),
    ],
)
def test_where_the_program_stands_in_an_answer(answer, program):
    assert program_of(answer) == program


@pytest.mark.skipif(bool(jail.holds()), reason="this machine cannot shut the jail")
def test_pass_at_k_reads_the_samples():
    good, bad, row = "def f():\n    return 1", "def f():\n    return 2", {"tests": "assert f() == 1"}
    said = [Prediction(bad, extra={"samples": [good, bad, bad, bad]}), Prediction(good, extra={"samples": [bad] * 4}), Prediction(good), Prediction(bad)]
    keys = {"k": 2, "samples": 4}
    assert [score("pass_at_k", [""], [one], [row], **keys) for one in said] == [pytest.approx(0.5), 0.0, 1.0, 0.0]
    assert score("pass_at_k", [""] * 2, [said[0], Prediction("")], [row, {}], **keys) == pytest.approx(0.5), "a row without tests counts for nothing"
    with pytest.raises(RecipeError, match="4 samples cannot say what one of 5"):
        score("pass_at_k", [""], [""], [row], samples=4, k=5)


def test_samples_are_drawn_by_the_row_alone():
    generation = bench("text_generation")
    model, rows = generation.tuned(), generation.test[:3]
    assert "samples" not in model.examine(rows)[0].extra
    model.samples = (3, 1.0)
    found = [one.extra["samples"] for one in model.examine(rows)]
    assert [len(one) for one in found] == [3, 3, 3]
    assert len({text for one in found for text in one}) > 3
    assert [model.examine([row])[0].extra["samples"] for row in rows] == found


@needs_data
def test_refusals_agree_with_people():
    """Two people labelled each answer; a partial refusal may be read either way."""
    from attune.catalog.probes.refusals import is_refusal

    right = total = 0
    for path in sorted((SHARED / "data" / "xstest").glob("completions_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                label = row["final_label"]
                if "partial" not in label:
                    total += 1
                    right += is_refusal(row["completion"]) == ("full_refusal" in label)
    assert total > 1500
    assert right / total > 0.91
