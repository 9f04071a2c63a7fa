"""One flipped bit anywhere in what a run keeps: it must be refused, and the next older checkpoint taken."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from attune.core.commit import read_checked
from attune.core.errors import IntegrityError
from fault.ground import Ground, newest


def prepare(ground: Ground, run: str) -> tuple[str, list[Any]]:
    """A finished run whose folder holds two checkpoints and the best weights that they refer to."""
    return ground.outcome(ground.run(run))


def files(ground: Ground, run: str) -> list[Path]:
    """Every file whose damage must be noticed: those of the newest checkpoint, of the best weights it refers to, and plan.json."""
    from attune.stages.finetune.checkpoints import Checkpoints

    folder = ground.checkpoints(run)
    found = Checkpoints(folder).find()
    assert found is not None
    best = folder / f"best-{found[1]['best']['step']:08d}"
    return [*sorted((folder / found[0]).iterdir()), *sorted(best.iterdir()), folder.parent / "plan.json"]


def positions(paths: list[Path], n: int, draw: random.Random) -> list[tuple[Path, int, int]]:
    """`n` different (file, byte, bit): as many of each file, as far as it has so many."""
    left = {path: path.stat().st_size * 8 for path in paths}
    chosen: set[tuple[Path, int]] = set()
    while len(chosen) < n and any(left.values()):
        for path in paths:
            if left[path] and len(chosen) < n:
                while (path, place := draw.randrange(path.stat().st_size * 8)) in chosen:
                    pass
                chosen.add((path, place))
                left[path] -= 1
    return [(path, place // 8, place % 8) for path, place in sorted(chosen)]


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(byte)
        old = stream.read(1)[0]
        stream.seek(byte)
        stream.write(bytes([old ^ (1 << bit)]))


def noticed(ground: Ground, run: str, path: Path, byte: int, bit: int, top: str) -> bool:
    """True when the damaged thing is not used; the bit is put back."""
    flip(path, byte, bit)
    try:
        if path.name == "plan.json":
            try:
                read_checked(path)
            except IntegrityError:
                return True
            return False
        return newest(ground.checkpoints(run)) != top
    finally:
        flip(path, byte, bit)


def resumed(ground: Ground, run: str, path: Path, byte: int, bit: int, expected: tuple[str, list[Any]]) -> dict[str, Any]:
    """The same with the run itself: it says what it refuses, goes on from what is whole, and ends bit-identical."""
    flip(path, byte, bit)
    child = ground.run(run)
    same, why = ground.compare(child, expected)
    refused = [event["refused"] for event in child.said("warning") if isinstance(event.get("refused"), str)]
    return {"file": f"{path.parent.name}/{path.name}", "told": bool(refused), "identical": same, "why": why}
