"""A probe examines a specialist and says how to read what it found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attune.testing.kinds._compare import Unchanged

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True


def check_result_can_be_read_and_repeated(subject: Subject) -> None:
    """A finite value with a meaning, over some rows, the same for the same seed; rows are not changed."""
    bench = subject.bench
    with Unchanged(bench.test, "rows"):
        first = subject.plug.run(bench.tuned(), bench.test, 5)
    assert math.isfinite(first.value), f"the value is {first.value}"
    assert first.meaning, "it does not say how to read the value"
    assert first.rows > 0, "it looked at no rows"
    assert subject.plug.run(bench.tuned(), bench.test, 5) == first, "the same seed gives another result"
