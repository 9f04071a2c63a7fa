"""A task reads rows, builds a model and answers; its answers do not depend on the company a row is in."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from attune.core import catalog, rows
from attune.core.contracts import require_fit
from attune.core.specialist import open_bundle
from attune.testing.bench import plain
from attune.testing.kinds._compare import Unchanged, same, well_formed

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = False
DEFAULT_PLUGS = {"objective": "objectives", "method": "methods", "main_metric": "metrics"}
DEFAULT_LISTS = ("metrics", "rivals", "checks", "detectors", "probes", "exports")


def check_says_what_it_is_and_needs(subject: Subject) -> None:
    """It has traits, an input role and a target role, each with a meaning."""
    task = subject.plug
    assert task.traits, "no traits: nothing can require anything of it"
    assert sorted(task.traits) == list(subject.entry.traits), "the listing sees other traits: write them as a literal in the class"
    assert any(role.target for role in task.roles), "no role is a target"
    assert any(not role.target for role in task.roles), "no role is an input"
    assert all(role.meaning for role in task.roles), "a role has no meaning"


def check_its_defaults_exist_and_fit(subject: Subject) -> None:
    """Every plug that it takes by default is there and fits its traits."""
    task = subject.plug
    named = [(kind, getattr(task.defaults, slot)) for slot, kind in DEFAULT_PLUGS.items()]
    named += [(kind, name) for kind in DEFAULT_LISTS for name in getattr(task.defaults, kind)]
    for kind, name in named:
        require_fit(task, catalog.build(kind, name))
    assert task.defaults.main_metric in task.defaults.metrics, "the main metric is not among its metrics"


def check_parsing_is_pure_and_rows_survive_the_disk(subject: Subject) -> None:
    """`parse` changes nothing it is given; rows come back from Parquet as they were."""
    bench = subject.bench
    for values in bench.records:
        with Unchanged(values, "raw values"):
            first = bench.task.parse(values, bench.columns)
        assert first == bench.task.parse(copy.deepcopy(values), bench.columns), "parsing twice gives two rows"
        assert set(first) <= {role.name for role in bench.task.roles}, f"roles that the task does not have: {sorted(first)}"
    rows.write_rows(subject.folder / "rows.parquet", bench.rows, bench.task)
    assert rows.read_rows(subject.folder / "rows.parquet", bench.task) == bench.rows, "rows came back from the disk changed"


def check_signature_is_json_and_does_not_depend_on_order(subject: Subject) -> None:
    """The signature is JSON, and the same for the same rows in another order."""
    bench = subject.bench
    assert plain(bench.signature) == bench.signature, "the signature does not survive JSON"
    assert bench.task.signature(bench.train[::-1]) == bench.signature, "the signature depends on the order of the rows"


def check_text_and_truth_of_every_row(subject: Subject) -> None:
    """Every row has a text (where the task has the trait text-in), which does not show its target, and a right answer."""
    bench = subject.bench
    for row, question in zip(bench.test, bench.questions(), strict=True):
        assert bench.task.truth(row) is not None, "a row has no right answer"
        if "text-in" in bench.task.traits:
            assert bench.task.text(row) == bench.task.text(question), "the text of a row depends on its target"
            assert bench.task.text(row).strip(), "a row has no text"


def check_answers_in_order_and_alone_as_together(subject: Subject) -> None:
    """Rows without targets are answered, in order; a row alone gets the answer it gets among others; the weights stay."""
    import torch

    bench = subject.bench
    specialist, questions = bench.tuned(), bench.questions()
    weights = getattr(specialist.model, "state_dict", dict)
    before = {name: value.clone() for name, value in weights().items()}
    with Unchanged(questions, "rows"):
        together = specialist.predict(questions)
    well_formed(together, questions)
    same(together, [specialist.predict([row])[0] for row in questions], questions, "alone and together")
    same(together, specialist.predict(questions[::-1])[::-1], questions, "in reverse order")
    assert all(torch.equal(before[name], value) for name, value in weights().items()), "answering changed the weights"


def check_examining_gives_what_metrics_grade(subject: Subject) -> None:
    """`examine` answers every row, and the main metric has a value on it."""
    bench = subject.bench
    answers = bench.tuned().examine(bench.test)
    well_formed(answers, bench.test)
    metric = catalog.build("metrics", bench.task.defaults.main_metric)
    value = float(metric.value(metric.contributions([bench.task.truth(row) for row in bench.test], answers, bench.signature).sum(0)))
    assert value == value, f"{metric.name} is not a number on its answers"


def check_embeddings(subject: Subject) -> None:
    """Where it has the trait embeds: one finite float32 vector per text, the same alone as together."""
    import numpy as np

    bench = subject.bench
    if "embeds" not in bench.task.traits:
        return
    texts = [bench.task.text(row) for row in bench.test]
    found = bench.tuned().embed(texts)
    assert found.shape[0] == len(texts), f"{found.shape} for {len(texts)} texts"
    assert found.ndim == 2, f"{found.shape} is not a vector per text"
    assert found.dtype == np.float32, f"vectors are {found.dtype}, not float32"
    assert np.isfinite(found).all(), "vectors are not finite"
    assert np.allclose(found[2], bench.tuned().embed(texts[2:3])[0], atol=1e-4), "a text alone has another vector than among others"


def check_a_bundle_answers_the_same(subject: Subject) -> None:
    """What is written and opened again answers as before, in both forms."""
    bench = subject.bench
    specialist = bench.tuned()
    again = open_bundle(bench.bundle(specialist, subject.folder / "bundle"))
    same(specialist.predict(bench.questions()), again.predict(bench.questions()), bench.test, "before and after the disk")
    same(specialist.examine(bench.test), again.examine(bench.test), bench.test, "examined before and after the disk")
    assert plain(again.signature) == plain(specialist.signature), "the signature changed on the disk"
