"""Collects and runs the checks: those of every plug (`general`) and those of its kind (`kinds/<kind>.py`)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from attune.core import catalog
from attune.core.catalog import Entry
from attune.core.errors import AttuneError
from attune.testing import general
from attune.testing.bench import Bench, bench, fitting


class Broken(AssertionError):
    """A plug does not do what its kind must do."""


@dataclass(frozen=True)
class Subject:
    """What a check looks at."""

    kind: str
    name: str
    entry: Entry
    folder: Path
    """Empty, for the check alone."""
    keys: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    own_bench: Bench | None = None

    @property
    def plug(self) -> Any:
        """A new object of the plug."""
        return catalog.build(self.kind, {"name": self.name, **self.keys})

    @property
    def bench(self) -> Bench:
        """The bench of the task at hand."""
        found = self.own_bench if self.own_bench is not None else bench(self.task or self.name)
        return found.shaped(self.plug) if self.kind == "objectives" else found


Check = Callable[[Subject], None]


@dataclass(frozen=True)
class Case:
    """One check of one plug (with one task, where the kind works with tasks)."""

    kind: str
    name: str
    check: Check
    keys: dict[str, Any]
    task: str | None = None
    own_bench: Bench | None = None

    def __str__(self) -> str:
        return "-".join(part for part in (self.kind, self.name, self.task, self.check.__name__.removeprefix("check_")) if part)

    @property
    def title(self) -> str:
        """What must hold, in a sentence."""
        return inspect.cleandoc(self.check.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def run(self, folder: Path) -> None:
        """Raise `Broken` when it does not hold; `folder` is scratch room."""
        entry = next((e for e in catalog.entries(self.kind) if e.name == self.name), None)
        if entry is None:
            raise Broken(f"there is no {self.kind} '{self.name}'")
        try:
            self.check(Subject(self.kind, self.name, entry, folder, self.keys, self.task, self.own_bench))
        except AssertionError as error:
            raise Broken(f"{self.kind}/{self.name}: {self.title}\n{error}") from error
        except Exception as error:
            raise Broken(f"{self.kind}/{self.name}: {self.title}\n{type(error).__name__}: {error}") from error


def _checks(module: ModuleType) -> list[Check]:
    return [value for name, value in vars(module).items() if name.startswith("check_") and inspect.isfunction(value) and value.__module__ == module.__name__]


def conformance_cases(kind: str, name: str, *, keys: dict[str, Any] | None = None, own_bench: Bench | None = None) -> list[Case]:
    """Every case of a plug.

    Args:
        kind: metrics, rivals ...
        name: the plug's name.
        keys: recipe keys to build it with; default: its defaults.
        own_bench: for plugs whose tasks need a model or rows of their own; default: a bench per text task that fits.
    """
    module = importlib.import_module(f"attune.testing.kinds.{kind}")
    keys = keys or {}
    found = [Case(kind, name, check, keys) for check in _checks(general)]
    try:
        requires = catalog.load(kind, name).requires
    except AttuneError:
        return found  # the general checks say what is wrong with it
    tasks: list[str | None] = [None]
    if module.PER_TASK and own_bench is None:
        tasks = [*fitting(requires)]
    return found + [Case(kind, name, check, keys, task, own_bench) for task in tasks for check in _checks(module)]


def check_plug(kind: str, name: str, folder: Path, *, keys: dict[str, Any] | None = None, own_bench: Bench | None = None) -> int:
    """Run every case of a plug; returns how many there were, raises `Broken` with everything that is wrong at once."""
    cases = conformance_cases(kind, name, keys=keys, own_bench=own_bench)
    wrong: list[str] = []
    for number, case in enumerate(cases):
        room = folder / f"{number:02d}"
        room.mkdir(parents=True)
        try:
            case.run(room)
        except Broken as error:
            wrong.append(str(error))
    if wrong:
        raise Broken("\n\n".join(wrong))
    return len(cases)
