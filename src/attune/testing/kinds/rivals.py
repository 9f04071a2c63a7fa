"""A rival learns from training rows only and answers like everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.contracts import Rival
from attune.core.errors import PlugError
from attune.testing.bench import fitting, mixed_targets
from attune.testing.kinds._compare import Unchanged, same, well_formed

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True


def _fitted(subject: Subject) -> Rival | None:
    """The rival after fitting, or None when it says that it has no answer for this task."""
    plug: Rival = subject.plug
    context = subject.bench.rival_context()
    with Unchanged([context.train, context.validation], "training rows"):
        refused: PlugError | None = None
        try:
            plug.fit(context)
        except PlugError as error:
            refused = error
    if refused is None:
        return plug
    assert refused.fix, f"it refuses without a way out: {refused}"
    assert subject.name not in subject.bench.task.defaults.rivals, f"the task takes it by default and it refuses: {refused}"
    return None


def check_answers_every_row(subject: Subject) -> None:
    """One well-formed answer per row, for at least one task; none for no rows."""
    rival = _fitted(subject)
    if rival is None:
        others = [name for name in fitting(subject.plug.requires) if name != subject.task]
        assert others, "it refuses the only task it fits"
        return
    well_formed(rival.predict(subject.bench.test), subject.bench.test)
    assert rival.predict([]) == [], "no rows do not give no answers"


def check_does_not_look_at_the_answers(subject: Subject) -> None:
    """Its answers stay the same when the test rows' targets are handed round among the rows."""
    rival = _fitted(subject)
    if rival is None:
        return
    rows = subject.bench.test
    same(rival.predict(rows), rival.predict(mixed_targets(subject.bench.task, rows)), rows, "with the right targets and with others")


def check_fitting_twice_gives_the_same_answers(subject: Subject) -> None:
    """Two fits with one seed answer alike."""
    first, again = _fitted(subject), _fitted(subject)
    if first is not None and again is not None:
        same(first.predict(subject.bench.test), again.predict(subject.bench.test), subject.bench.test, "fitted twice")
