"""Errors a person can act on: each names the thing, the value, the place and the way out; the class decides the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class AttuneError(Exception):
    """Base of every error that Attune raises on purpose.

    Args:
        what: what is wrong, naming the thing and the value.
        place: where (file:line, recipe key, row id ...).
        fix: the way out, as something to do or to type.
    """

    exit_code = 1

    def __init__(self, what: str, *, place: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.fix = fix

    def __str__(self) -> str:
        text = self.what
        if self.place:
            text = f"{self.place}: {text}"
        if self.fix:
            text = f"{text}\n  -> {self.fix}"
        return text

    def as_json(self) -> dict[str, str | int | None]:
        """The error for machines: class, what, place, fix and exit code."""
        return {"error": type(self).__name__, "what": self.what, "place": self.place, "fix": self.fix, "exit_code": self.exit_code}


class RecipeError(AttuneError):
    """The recipe (or a command line) cannot be read as meant."""

    exit_code = 2


class DataError(AttuneError):
    """The rows cannot be used as they are."""

    exit_code = 3


class PlugError(AttuneError):
    """A plug is missing, broken or does not fit the others."""

    exit_code = 4


class Refused(AttuneError):
    """A gate, a permission or a rule said no."""

    exit_code = 5


class IntegrityError(AttuneError):
    """Something stored is not what was written: a hash, a size or a chain does not match."""

    exit_code = 6


class MachineError(AttuneError):
    """The machine lacks something: disk, memory, a package, a port, a model file."""

    exit_code = 7


class Problems(RecipeError):
    """Several problems reported at once; the exit code is theirs when they agree on one."""

    def __init__(self, problems: Sequence[AttuneError], *, title: str) -> None:
        self.problems = list(problems)
        super().__init__(title)
        codes = {problem.exit_code for problem in self.problems}
        if len(codes) == 1:
            self.exit_code = codes.pop()

    def __str__(self) -> str:
        lines = [self.what]
        for number, problem in enumerate(self.problems, start=1):
            lines.append(f"  {number}. " + str(problem).replace("\n", "\n     "))
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:  # type: ignore[override]
        """Every problem for machines."""
        return {"error": "Problems", "what": self.what, "exit_code": self.exit_code, "problems": [p.as_json() for p in self.problems]}


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice a person most likely meant by `name`, or None."""
    options = list(choices)
    folded = {option.lower().replace("-", "_"): option for option in options}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A way-out sentence: the nearest choice when one is near, else every choice."""
    options = sorted(choices)
    near = nearest(name, options)
    if near:
        return f"did you mean '{near}'?"
    return "choose one of: " + ", ".join(options) if options else "nothing can be named here"
