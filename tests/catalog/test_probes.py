"""Robustness: real changes of text that keep the meaning, the same ones each time, and a brittle model is caught."""

from __future__ import annotations

from itertools import takewhile
from types import SimpleNamespace

import numpy as np
import pytest

from attune.catalog.probes.robustness import PERTURBATIONS
from attune.core import catalog
from attune.core.contracts import Prediction, ProbeContext
from attune.core.errors import PlugError

TEXTS = ["Where is my parcel? It was due on Monday, and nobody tells me anything.", "please reset my password", "REFUND!!! NOW", "Ünïcode wörds größer façade, naïve.", "ok"]
ROWS = [{"text": text, "label": "x"} for text in TEXTS]


def specialist(answer, task="text_classification"):
    built = catalog.build("tasks", task)
    return SimpleNamespace(task=built, max_length=64, predict=lambda rows: [Prediction(answer(built.text(row))) for row in rows])


def shared_start(a, b):
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


def letters(text):
    return "".join(c for c in text.casefold() if c.isalnum())


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_change_is_small_keyed_and_keeps_the_words(name, text):
    change = PERTURBATIONS[name]
    for seed in range(40):
        changed = change(text, np.random.default_rng(seed))
        assert changed == change(text, np.random.default_rng(seed))
        assert changed.strip()
        if name == "typo":
            assert abs(len(changed) - len(text)) <= 1
            assert shared_start(changed, text) + shared_start(changed[::-1], text[::-1]) >= len(text) - 2
        else:
            assert letters(changed) == letters(text)
    assert any(change(text, np.random.default_rng(seed)) != text for seed in range(40)) or (name == "typo" and len(text) < 4)


def test_a_steady_model_keeps_every_answer_and_a_brittle_one_is_caught():
    probe = catalog.build("probes", "robustness")
    steady = probe.run(ProbeContext(specialist(lambda text: "same"), ROWS, 7))
    assert (steady.value, steady.rows, steady.examples) == (1.0, 5, ())
    brittle = probe.run(ProbeContext(specialist(lambda text: text), ROWS, 7))
    assert brittle.value <= 0.1
    assert len(brittle.examples) == 6
    assert brittle.examples[0]["text"] != brittle.examples[0]["changed to"]
    case_only = probe.run(ProbeContext(specialist(lambda text: "loud" if text.isupper() else "calm"), ROWS, 7))
    assert 0.7 < case_only.value < 1
    assert all(example["change"] == "case" for example in case_only.examples)
    assert "typo 100.0%" in case_only.meaning


def test_the_same_seed_gives_the_same_result_and_rows_are_a_sample():
    probe = catalog.build("probes", {"name": "robustness", "rows": 3, "examples": 2})
    model = specialist(lambda text: text)
    first, again, other = probe.run(ProbeContext(model, ROWS, 7)), probe.run(ProbeContext(model, ROWS, 7)), probe.run(ProbeContext(model, ROWS, 8))
    assert first == again
    assert first != other
    assert (first.rows, len(first.examples)) == (3, 2)


def test_rows_are_not_changed_and_conversations_change_in_the_last_user_turn():
    rows = [{"prompt": [{"role": "user", "content": "first question here"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "second question here"}], "completion": "z"}]
    seen = []
    model = specialist(lambda text: seen.append(text) or "same", task="text_generation")
    assert catalog.build("probes", "robustness").run(ProbeContext(model, rows, 7)).value == 1
    assert rows[0]["prompt"][2]["content"] == "second question here"
    assert all(text.startswith("first question here\nyes\n") for text in seen)
    assert len(set(seen)) == 5


def test_vectors_count_as_equal_when_they_point_the_same_way():
    rows = [{"anchor": text, "positive": "p"} for text in TEXTS]
    probe = catalog.build("probes", "robustness")
    assert probe.run(ProbeContext(specialist(lambda text: [1.0, len(text) * 1e-4], task="embedding"), rows, 7)).value == 1
    assert probe.run(ProbeContext(specialist(lambda text: [1.0, 0.0] if text in TEXTS else [0.0, 1.0], task="embedding"), rows, 7)).value < 0.2


def test_scores_count_as_equal_when_they_prefer_the_same_answer():
    rows = [{"prompt": [{"role": "user", "content": text}], "completion": "Good.", "rejected": "Bad."} for text in TEXTS]
    task = catalog.build("tasks", "reward")

    def scoring(prefers):
        return SimpleNamespace(
            task=task,
            max_length=64,
            predict=lambda rows: [Prediction(float(sum(map(ord, task.text(row))))) for row in rows],
            examine=lambda rows: [Prediction(prefers(row["prompt"][0]["content"], row)) for row in rows],
        )

    probe = catalog.build("probes", "robustness")
    assert probe.run(ProbeContext(scoring(lambda text, row: row["completion"]), rows, 7)).value == 1
    assert probe.run(ProbeContext(scoring(lambda text, row: row["completion" if text in TEXTS else "rejected"]), rows, 7)).value < 0.2


def test_a_task_without_text_is_refused():
    task = SimpleNamespace(name="forecast", roles=())
    with pytest.raises(PlugError, match="no text column"):
        catalog.build("probes", "robustness").run(ProbeContext(SimpleNamespace(task=task), ROWS, 7))
