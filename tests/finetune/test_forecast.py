"""The forecast is measured with the recipe's own base, rows and settings, and says what would fit where it does not."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from attune.catalog.objectives.few_shot import FewShot
from attune.core.contracts import Objective
from attune.core.errors import MachineError
from attune.core.recipe import make_recipe
from attune.stages.finetune import forecast as module
from attune.stages.finetune.forecast import Forecast, _expected, forecast

from .conftest import make_rows


def test_a_real_probe_says_time_memory_and_disk(recipe_of, tmp_path):
    found = forecast(recipe_of("full", epochs=4), make_rows(80), 700, 100, tmp_path / "not" / "there" / "yet")
    assert found.steps == 4 * 88  # 700 of 1,000 rows train, 8 a batch
    assert found.fits
    assert found.seconds == pytest.approx(sum(found.parts.values()), rel=0.01)
    assert found.parts["steps"] > 0
    assert 2e8 < found.memory_bytes < 4e9
    assert found.disk_bytes > 1e5
    assert found.free_memory > 0


def test_what_the_first_steps_would_raise_is_told(recipe_of, tmp_path):
    with pytest.raises(MachineError, match="there is no base model"):
        module._apart(dataclasses.replace(recipe_of("full")), make_rows(20), (14, 2), {"base_model": "./nowhere"}, tmp_path)


@pytest.mark.parametrize(("metric", "writes"), [("perplexity", False), ("token_f1", True)])
def test_the_probe_writes_answers_only_where_the_run_does(monkeypatch, recipe_of, tmp_path, metric, writes):
    from attune.catalog.tasks.text_generation import TextGeneration
    from attune.testing.models import tiny_llama

    examine, written = TextGeneration.examine, []
    monkeypatch.setattr(TextGeneration, "examine", lambda *given: written.append(1) or examine(*given))
    rows = [{"row_id": str(i), "prompt": [{"role": "user", "content": f"how do I find page {i}"}], "completion": f"turn to leaf {i} of the book"} for i in range(24)]
    tiny_llama(tmp_path / "base", [row["completion"] for row in rows])
    given = recipe_of("full", {"name": "text_generation", "max_new_tokens": 4}, "sft", epochs=1).given
    recipe = make_recipe({**given, "base_model": str(tmp_path / "base"), "grade": {"main_metric": metric}}, folder=tmp_path)
    assert module._probe(recipe, rows, (17, 2), tmp_path).steps > 0
    assert bool(written) == writes


def test_a_row_that_becomes_several_examples_counts_as_several(recipe_of, tmp_path, monkeypatch):
    """Twice as many rows of half the length each are the same examples: memory, cache, embedding, and the loss of validation rows."""
    from attune.catalog.objectives.supervised import Supervised

    plain, seen, grown = Supervised.examples, [], []
    evaluated, more = module._evaluate, module._more_embedding
    monkeypatch.setattr(module, "_evaluate", lambda learner, metric, rows, examples, per_row, saver: (seen.append((len(rows), per_row)), evaluated(learner, metric, rows, examples, per_row, saver)))
    monkeypatch.setattr(module, "_more_embedding", lambda learner, examples, total: (grown.append(total), more(learner, examples, total))[1])
    monkeypatch.setattr(module, "_in_memory", lambda value: 1e6 * len(value))
    monkeypatch.setattr(module, "peak_memory", lambda: 0.0)
    once = module._probe(recipe_of("lora", epochs=1), make_rows(80), (700, 100), tmp_path)
    monkeypatch.setattr(Supervised, "examples", lambda self, specialist, rows, length: [one for one in plain(self, specialist, rows, length) for _ in range(10)])
    again = module._probe(recipe_of("lora", epochs=1), make_rows(80), (700, 100), tmp_path)
    assert (once.steps, again.steps) == (88, 875)
    assert once.memory_bytes == pytest.approx(1e6 * (800 - 80), rel=0.01)
    assert again.memory_bytes == pytest.approx(1e6 * (8000 - 800), rel=0.01)
    assert grown == [700, 7000]
    assert {per_row for _, per_row in seen} == {1.0, 10.0}


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_rows_that_are_looked_at_have_their_reference_too(recipe_of, tmp_path, objective):
    """Of so few rows the probe looks at more than it learns from."""
    from attune.testing.models import tiny_llama

    recipe = recipe_of("full", {"name": "text_generation", "max_new_tokens": 4}, objective, epochs=1, max_length=64)
    rows = [
        {"row_id": str(i), "prompt": [{"role": "user", "content": f"how do I find page {i}"}], "completion": f"turn to leaf {i}", "rejected": f"no leaf {i}", "desirable": i % 2 == 0}
        for i in range(40)
    ]
    tiny_llama(tmp_path / "base", [row["completion"] for row in rows])
    found = module._probe(make_recipe({**recipe.given, "base_model": str(tmp_path / "base")}, folder=tmp_path), rows, (28, 4), tmp_path)
    assert found.steps == 4  # 28 rows train
    assert found.parts["computed once"] > 0


def test_the_longest_rows_are_those_that_the_whole_would_have():
    rows = [{"row_id": str(i)} for i in range(1000)]
    sizes = [(7 * i) % 1000 for i in range(1000)]

    def longest(total):
        return sorted(sizes[int(row["row_id"])] for row in module._longest(rows, sizes, total))

    assert longest(1000) == list(range(936, 1000))  # the sample is all there is
    assert longest(100_000) == list(range(936, 1000))  # more rows than the sample has: its own longest are the best guess
    assert longest(64)[0] < 20  # so few rows are one batch, of all sizes
    assert min(longest(320)) == pytest.approx(800, abs=8)
    assert module._longest(rows[:3], [3, 1, 2], 500) == [rows[0], rows[2], rows[1]]


def ladder(monkeypatch, recipe_of, tmp_path, memory, free, disk=1.0):
    asked = []

    def apart(recipe, rows, counts, changes, workspace):
        asked.append(changes)
        return Forecast(1.0, memory(changes), disk, 1)

    monkeypatch.setattr(module, "_apart", apart)
    monkeypatch.setattr(module, "available_memory", lambda: free)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e9))
    return forecast(recipe_of("full"), make_rows(8), 6, 1, tmp_path), asked


def test_the_first_rung_that_fits_is_named(monkeypatch, recipe_of, tmp_path):
    found, asked = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50 if changes.get("method") == "lora" else 200, 100)
    assert asked[1:] == [{"train": {"micro_batch_size": 8}}, {"train": {"micro_batch_size": 1}}, {"method": "lora"}]
    assert not found.fits
    assert found.way_out == "method=lora"
    assert len(asked) == 4


def test_only_settings_that_the_recipe_can_take_are_on_the_ladder(recipe_of):
    def words(*given):
        return [one for one, _ in module._ladder(recipe_of(*given))]

    assert words("full") == ["train.micro_batch_size=8", "train.micro_batch_size=1", "method=lora", "method=head"]
    assert words("lora")[2:] == ["method=head"]
    assert words("head")[2:] == []
    assert words("full", "text_classification", "few_shot") == words("full"), "its batches are computed in parts too"


def test_a_batch_that_cannot_be_computed_in_parts_gets_no_smaller_ones(recipe_of, monkeypatch):
    monkeypatch.setattr(FewShot, "each", Objective.each)
    assert [one for one, _ in module._ladder(recipe_of("full", "text_classification", "few_shot"))] == ["method=lora", "method=head"]


def test_the_disk_that_is_missing_is_named(monkeypatch, recipe_of, tmp_path):
    found, asked = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50, 100, disk=8.001e9)
    assert not found.fits
    assert found.way_out == "3.01 GB more of free disk"
    assert asked == [{}]
    found, _ = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50 if changes.get("method") == "lora" else 200, 100, disk=8.001e9)
    assert found.way_out == "method=lora and 3.01 GB more of free disk"


def test_a_rung_below_auto_has_no_budget(recipe_of, monkeypatch):
    recipe = make_recipe({**recipe_of("full").given, "method": "auto", "budget": "10m"}, folder=recipe_of("full").folder)
    rungs = {words: changes for words, changes in module._ladder(recipe) if "method" in changes}
    assert list(rungs) == ["method=lora without a budget", "method=head without a budget"]
    for changes in rungs.values():
        assert make_recipe({**recipe.given, **changes}, folder=recipe.folder).method.name == changes["method"]


def test_where_it_fits_no_rung_is_tried(monkeypatch, recipe_of, tmp_path):
    found, asked = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50, 100)
    assert found.fits
    assert (found.way_out, asked) == ("", [{}])


def test_nothing_fits_is_said_too(monkeypatch, recipe_of, tmp_path):
    found, _ = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 500, 100)
    assert not found.fits
    assert found.way_out == ""


def test_a_steps_time_follows_its_tokens():
    assert _expected([(100, 1.0), (200, 2.0), (300, 3.0)], np.array([150.0, 250.0])) == pytest.approx(2.0)
    assert _expected([(100, 1.0)], np.array([100.0, 900.0])) == pytest.approx(1.0)
    assert _expected([(100, 2.0), (200, 1.0)], np.array([150.0])) == pytest.approx(1.5)  # noise must not make long batches free


def test_the_time_of_many_rows_is_a_line_through_two_measurements():
    assert module.at([(16, 1.16), (64, 1.64)], 1000) == pytest.approx(11.0)
    assert module.at([(16, 0.1), (64, 1.0)], 128) == pytest.approx(2.0)  # no start of less than nothing
    assert module.at([(16, 1.0), (64, 0.9)], 640) == pytest.approx(1.0)  # noise


class Learned:
    """What `_more_embedding` asks of a learner whose embedding is cut down."""

    def __init__(self, compact):
        self.compact = compact
        self.trained = {"body.table": compact.weight} if compact is not None else {}


def drawn(rows, seed=5):
    """Rows of ten tokens, as often as in Zipf's law."""
    draw = np.random.default_rng(seed)
    share = 1 / np.arange(1, 200_001)
    return [{"ids": row.tolist()} for row in draw.choice(200_000, size=(rows, 10), p=share / share.sum())]


def test_the_embedding_grows_with_the_rows_as_distinct_tokens_do():
    import torch

    from attune.stages.finetune.compact import CompactEmbedding

    def held(rows, entries=200_000):
        examples = drawn(rows)
        used = sorted({token for one in examples for token in one["ids"]})
        return examples, CompactEmbedding(torch.nn.Embedding(entries, 4), torch.tensor(used))

    (few, small), (_, large) = held(1000), held(8000)
    more, name = module._more_embedding(Learned(small), few, 8000)
    truth = (len(large.used) - len(small.used)) * 4 * 4
    assert name == "body.table"
    assert truth > 0.5 * len(small.used) * 4 * 4  # it does grow
    assert more == pytest.approx(truth, rel=0.25)
    assert module._more_embedding(Learned(small), few, 1000)[0] == 0  # the clean twin: no more rows, no more tokens
    few, small = held(1000, 200_000)
    assert module._more_embedding(Learned(small), few, 10**9)[0] == (200_000 - len(small.used)) * 4 * 4  # never more than the whole table
    assert module._more_embedding(Learned(None), few, 8000) == (0.0, "")
