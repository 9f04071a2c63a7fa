"""A probe examines a specialist and says how to read what it found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attune.testing.kinds._compare import Unchanged

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True


def check_result_can_be_read_and_repeated(subject: Subject) -> None:
    """A finite value with a meaning, over some rows, the same for the same seed; without rows to look at, the meaning says why. Rows are not changed."""
    bench = subject.bench
    with Unchanged(bench.test, "rows"):
        first = subject.plug.run(bench.probe_context())
    assert math.isfinite(first.value) or not first.rows, f"the value is {first.value}"
    assert first.meaning, "it does not say how to read the value"
    assert first.rows > 0 or not math.isfinite(first.value), "it looked at no rows and says a value"
    again = subject.plug.run(bench.probe_context())
    assert again == first or (not first.rows and again.meaning == first.meaning), "the same seed gives another result"


def check_its_measures_can_be_gated(subject: Subject) -> None:
    """What gates may name is measured: the tuned model's contributions [n, k] give a number, and everybody else's have the same rows."""
    import numpy as np

    bench, named = subject.bench, subject.plug.gated()
    for measure in subject.plug.run(bench.probe_context()).measures:
        assert measure.name in named, f"'{measure.name}' is measured and not declared in gated()"
        assert isinstance(measure.figure, named[measure.name]), f"'{measure.name}' is not the figure that gated() declares"
        assert measure.meaning, f"'{measure.name}' does not say how to read it"
        shapes = {who: array.shape for who, array in measure.rows.items()}
        assert len(set(shapes.values())) == 1, f"contestants have contributions of different shapes: {shapes}"
        for who, array in measure.rows.items():
            assert np.shape(measure.figure.value(array.sum(0))) == (), f"the sum of {who} does not give a single number"
