"""An objective makes batches and a loss that the loop may add up, in an order that a resume can repeat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attune.core.contracts import Example, Objective
    from attune.core.specialist import Specialist
    from attune.testing.suite import Subject

PER_TASK = True


def _loss(objective: Objective, specialist: Specialist, examples: list[Example]) -> tuple[float, float]:
    """Summed loss and its count, without dropout."""
    import torch

    if hasattr(specialist.model, "eval"):
        specialist.model.eval()
    with torch.no_grad():
        total, count = objective.loss(specialist.model, objective.collate(specialist, objective.renew(specialist, examples, 5, -1)))
    return float(total), float(count)


def check_examples_are_one_per_row_and_the_same_each_time(subject: Subject) -> None:
    """One example per row, in order, with `size` and `row_id`; encoding twice gives the same."""
    bench, objective = subject.bench, subject.plug
    specialist = bench.prepared(bench.method())
    first, again = (objective.examples(specialist, bench.train, bench.max_length) for _ in range(2))
    assert [one["row_id"] for one in first] == [row["row_id"] for row in bench.train], "examples are not one per row, in order"
    rows = [len(one["ids"]) if isinstance(one.get("ids"), dict) else 1 for one in first]
    assert all(isinstance(one["size"], int) and 0 < one["size"] <= bench.max_length * lines for one, lines in zip(first, rows, strict=True)), "a size is not between 1 and max_length"
    assert repr(first) == repr(again), "encoding twice gives two results"


def check_order_covers_every_row_once(subject: Subject) -> None:
    """An order of its own is a pure function; each epoch holds every row once."""
    bench, objective = subject.bench, subject.plug
    examples = bench.examples(objective, bench.prepared(bench.method()))
    for epoch in range(4):
        batches = objective.order(examples, 5, 9, epoch)
        if batches is None:
            return
        assert batches == objective.order(examples, 5, 9, epoch), "asking twice gives two orders"
        assert sorted(i for batch in batches for i in batch) == list(range(len(examples))), f"epoch {epoch} does not hold every row once"
        assert all(0 < len(batch) <= 5 for batch in batches), "a batch is empty or too large"
    assert objective.order(examples, 5, 9, 1) != objective.order(examples, 5, 9, 2), "the order is the same in every epoch"


def check_loss_is_finite_and_adds_up(subject: Subject) -> None:
    """The loss is a finite sum with a positive count; where a batch can be computed in parts, these give the loss of the whole."""
    import torch

    bench, objective = subject.bench, subject.plug
    specialist = bench.prepared(bench.method())
    examples = bench.examples(objective, specialist)[:8]
    total, count = _loss(objective, specialist, examples)
    assert math.isfinite(total), f"the loss is {total}"
    assert total >= 0 or not objective.loss_falls, f"the loss is {total}, below zero: set `loss_falls = False` where its sign says nothing"
    assert count > 0, "the count of supervised items is 0"
    if objective.separable:
        parts = [_loss(objective, specialist, examples[:3]), _loss(objective, specialist, examples[3:])]
        assert math.isclose(parts[0][0] + parts[1][0], total, rel_tol=1e-3, abs_tol=1e-4), f"{parts[0][0]} + {parts[1][0]} is not {total}: give sums, not means, or set separable = False"
        assert parts[0][1] + parts[1][1] == count, "the counts of two halves do not add up"
    elif objective.divisible:
        with torch.no_grad():
            said = [one for part in objective.divided(specialist, examples, 3) for one in objective.each(specialist.model, part)]
            whole, number = objective.together(specialist.model, said, objective.collate(specialist, examples))
        assert math.isclose(float(whole), total, rel_tol=1e-3, abs_tol=1e-4), (
            f"`together` makes {float(whole)} of what the parts said, the whole batch has {total}: `each` must not depend on other rows"
        )
        assert number == count, f"`together` counts {number} supervised items, the whole batch has {count}"


def check_what_it_teaches_is_learned(subject: Subject) -> None:
    """Gradients reach the parameters that train, and some steps make the loss smaller."""
    bench, objective = subject.bench, subject.plug
    specialist = bench.prepared(bench.method())
    examples = bench.examples(objective, specialist)
    before, count = _loss(objective, specialist, examples)
    if before == 0:  # it learns from attempts of its own, and none of the small model's was right
        return
    bench.learn(objective, specialist)
    after, _ = _loss(objective, specialist, examples)
    assert after < before, f"mean loss {before / count:.4f} became {after / count:.4f} after some steps"


def check_a_start_of_its_own_leaves_a_finite_loss(subject: Subject) -> None:
    """After `begin` the loss is finite and not worse than before."""
    bench, objective = subject.bench, subject.plug
    specialist = bench.prepared(bench.method())
    examples = bench.examples(objective, specialist)
    before, _ = _loss(objective, specialist, examples)
    objective.begin(specialist, examples)
    after, _ = _loss(objective, specialist, examples)
    assert math.isfinite(after), f"the loss is {after} after begin"
    assert after <= before * 1.01, f"begin made the loss worse: {before} became {after}"
