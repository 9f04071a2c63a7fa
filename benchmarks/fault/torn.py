"""Power loss: of what a run did to its folder only what it had synced is sure to be there.

The preloaded library records every change in order. A crash point is a place in that record. Up to there, contents of files that were
fsynced and names in folders that were fsynced are kept. Each write after a file's last fsync is kept, lost, cut short or replaced by
zeros; the changes of a folder's names after its last fsync are kept up to some point (as a journal does) or each by chance (as the
standard allows). Whatever comes out, the newest checkpoint that was acknowledged before the crash, or a newer one, must be found whole.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault import shim
from fault.ground import Ground, newest, step_of

BLOCK = 512


@dataclass
class Op:
    """One recorded change; paths are relative to the folder of runs."""

    what: str
    path: str
    other: str
    offset: int
    data: bytes


@dataclass
class Node:
    """A file or a folder, as the running system sees it and as the disk is sure to hold it."""

    folder: bool
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    names: dict[str, Node] = field(default_factory=dict)
    sure: dict[str, Node] = field(default_factory=dict)
    changes: list[list[tuple[str, Node | None]]] = field(default_factory=list)

    def change(self, *parts: tuple[str, Node | None]) -> None:
        self.changes.append(list(parts))
        apply(self.names, parts)

    def sync(self) -> None:
        self.synced, self.pending = bytes(self.data), []
        self.sure, self.changes = dict(self.names), []


def apply(names: dict[str, Node], parts: Any) -> None:
    for name, node in parts:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def record(ground: Ground, run: str, log: Path, twin: Any = None) -> list[Op]:
    """Run once, and read back what it did; acknowledgements stand in the record as marks with the checkpoint's digest."""
    from attune.core.commit import manifest_of

    checkpoints = ground.checkpoints(run)
    folder = checkpoints.parent.parent

    def begin(tell: Any) -> None:
        folder.mkdir(exist_ok=True)
        shim.attach(None, folder, log)
        if twin is not None:
            twin(tell)

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint" and event["message"].endswith("is saved"):
            made = checkpoints / f"step-{event['step']:08d}"
            shim.mark(f"{made.name} {manifest_of(made)['digest'] if made.is_dir() else '?'}")

    ground.outcome(ground.run(run, before=begin, hear=hear))
    ops, raw, at = [], log.read_bytes(), 0
    while at < len(raw):
        what, path_length, other_length, offset, length = struct.unpack_from("=5q", raw, at)
        at += 40
        texts = []
        for size in (path_length, other_length):
            texts.append(raw[at : at + size].decode())
            at += size
        ops.append(Op(chr(what), *(text.removeprefix(str(folder)).strip("/") for text in texts), offset, raw[at : at + length]))
        at += length
    return ops


def play(ops: list[Op]) -> Node:
    """The tree after these changes."""
    root = Node(True)

    def at(path: str) -> Node:
        node = root
        for part in filter(None, path.split("/")):
            node = node.names[part]
        return node

    for op in ops:
        above, _, name = op.path.rpartition("/")
        if op.what in "CD":
            at(above).change((name, Node(op.what == "D")))
        elif op.what == "W":
            node = at(op.path)
            node.data[len(node.data) :] = bytes(max(0, op.offset - len(node.data)))
            node.data[op.offset : op.offset + len(op.data)] = op.data
            node.pending.append((op.offset, op.data))
        elif op.what == "T":
            node = at(op.path)
            node.data[op.offset :] = b""
            node.pending.append((op.offset, None))
        elif op.what == "S":
            at(op.path).sync()
        elif op.what == "R":
            to, _, new = op.other.rpartition("/")
            node = at(op.path)
            if to == above:
                at(above).change((name, None), (new, node))
            else:
                at(to).change((new, node))
                at(above).change((name, None))
        elif op.what == "U":
            at(above).change((name, None))
    return root


def lose(node: Node, target: Path, draw: random.Random, journal: bool) -> None:
    """Write what a power loss leaves of a tree."""
    if node.folder:
        names = dict(node.sure)
        kept = node.changes[: draw.randint(0, len(node.changes))] if journal else [one for one in node.changes if draw.random() < 0.5]
        for parts in kept:
            apply(names, parts)
        target.mkdir()
        for name, inner in names.items():
            lose(inner, target / name, draw, journal)
        return
    data = bytearray(node.synced)
    for offset, part in node.pending:
        fate = draw.choice(("kept", "lost", "cut", "zeros"))
        if part is None:
            if fate == "kept":
                data[offset:] = b""
            continue
        if fate == "cut":
            part = part[: draw.randint(0, len(part) // BLOCK) * BLOCK]
        elif fate == "zeros":
            part = bytes(len(part))
        if fate != "lost":
            data[len(data) :] = bytes(max(0, offset - len(data)))
            data[offset : offset + len(part)] = part
    target.write_bytes(data)


def point(ops: list[Op], crash: int, run: str, target: Path, draw: random.Random) -> dict[str, Any]:
    """Crash after `crash` changes; what is found must be as new as what was acknowledged, and hold the bytes of that step."""
    from attune.core.commit import manifest_of

    journal = draw.random() < 0.5
    lose(play(ops[:crash]), target, draw, journal)
    marks = [op.path.split() for op in ops if op.what == "K"]
    promised = max((step_of(op.path.split()[0]) for op in ops[:crash] if op.what == "K"), default=-1)
    found: str | None
    try:
        found = newest(target / run / "checkpoints")
        right = found is None or manifest_of(target / run / "checkpoints" / found)["digest"] == dict(marks).get(found)
    except Exception as error:
        return {"crash": crash, "journal": journal, "valid": False, "promised": promised, "found": None, "why": f"{type(error).__name__}: {error}"}
    return {"crash": crash, "journal": journal, "valid": right and step_of(found) >= promised, "promised": promised, "found": found}
