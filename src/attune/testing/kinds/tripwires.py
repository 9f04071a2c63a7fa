"""A tripwire leaves a clean run alone, changes nothing, and says a place and a way out with every alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.contracts import TripwireContext
from attune.core.errors import AttuneError
from attune.testing.bench import Bench
from attune.testing.kinds._compare import Unchanged

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True


def _context(bench: Bench) -> TripwireContext:
    specialist, objective = bench.prepared(bench.method()), bench.objective()
    return TripwireContext(specialist, objective, bench.train, bench.examples(objective, specialist))


def check_is_silent_on_a_clean_run(subject: Subject) -> None:
    """On rows and a base without a fault nothing blocks, before the first step and after some."""
    bench, plug = subject.bench, subject.plug
    context = _context(bench)
    context.specialist.model.eval()
    context.remembered[plug.name] = plug.remember(context)
    if plug.phase == "steps":
        bench.learn(context.objective, context.specialist, 4)
    loud = [alarm for alarm in plug.examine(context) if alarm.blocks]
    assert not loud, f"it blocks a clean run: {loud[0].what}"


def check_is_pure(subject: Subject) -> None:
    """It changes neither rows nor weights, and says the same when it looks again."""
    import torch

    context = _context(subject.bench)
    context.specialist.model.eval()
    weights = {name: value.clone() for name, value in context.specialist.model.state_dict().items()}
    with Unchanged(context.rows, "rows"):
        context.remembered[subject.plug.name] = subject.plug.remember(context)
        first, again = list(subject.plug.examine(context)), list(subject.plug.examine(context))
    assert first == again, "a second look found other things"
    assert all(torch.equal(weights[name], value) for name, value in context.specialist.model.state_dict().items()), "looking changed the weights"
    assert all(alarm.what and alarm.place and alarm.fix for alarm in first), "an alarm lacks its place or its way out"


def check_phase_and_class_are_known(subject: Subject) -> None:
    """Its phase is one of rows, start and steps, and its class of error decides an exit code."""
    assert subject.plug.phase in ("rows", "start", "steps"), f"phase '{subject.plug.phase}' is unknown"
    assert not subject.plug.judges or subject.plug.phase == "rows", "a tripwire that judges single rows does so in phase rows, before anything is encoded"
    assert issubclass(subject.plug.error, AttuneError), f"{subject.plug.error} is no AttuneError"


def check_works_without_a_model_where_it_says_so(subject: Subject) -> None:
    """In phase 'rows' it gets along with a tokenizer alone."""
    if subject.plug.phase != "rows":
        return
    context = _context(subject.bench)
    context.specialist.model, context.examples = None, ()
    list(subject.plug.examine(context))
