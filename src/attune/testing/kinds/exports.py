"""What an export writes answers as the release does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.errors import PlugError
from attune.testing.bench import fitting
from attune.testing.kinds._compare import same

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True


def check_replay_agrees(subject: Subject) -> None:
    """The exported form gives the specialist's answers; a form that cannot is refused, for some tasks at most."""
    bench = subject.bench
    specialist = bench.tuned()
    bundle = bench.bundle(specialist, subject.folder / "bundle")
    target = subject.folder / "exported"
    target.mkdir()
    refused: PlugError | None = None
    try:
        subject.plug.write(specialist, bundle, target)
    except PlugError as error:
        refused = error
    if refused is not None:
        assert refused.fix, f"it refuses without a way out: {refused}"
        assert subject.name not in bench.task.defaults.exports, f"the task takes it by default and it refuses: {refused}"
        assert [name for name in fitting(subject.plug.requires) if name != subject.task], "it refuses the only task it fits"
        return
    assert any(target.iterdir()), "it wrote nothing"
    same(specialist.predict(bench.questions()), subject.plug.replay(target, bench.questions()), bench.test, "the specialist and the exported form")


def check_replay_reads_what_was_written(subject: Subject) -> None:
    """Without the exported files there are no answers: the replay asks the folder and not the original."""
    empty = subject.folder / "empty"
    empty.mkdir()
    try:
        subject.plug.replay(empty, subject.bench.questions())
    except Exception:
        return
    raise AssertionError("an empty folder answered")
