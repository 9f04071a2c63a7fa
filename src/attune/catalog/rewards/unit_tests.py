"""1 where the answer, a Python program, passes the row's unit tests in a jailed process, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attune.core.contracts import Role, Row
from attune.core.errors import DataError
from attune.core.jail import Limits, run_tests
from attune.core.keys import Keys, key
from attune.core.programs import TESTS, program_of, unit_tests_of
from attune.core.rewards import Reward


class UnitTestsKeys(Keys):
    """Keys of the reward."""

    seconds: float = key(5.0, "time that one program may take", gt=0, le=600)
    memory_mb: int = key(512, "memory that one program may take, in megabytes", ge=64)


class UnitTests(Reward):
    """Programs run without network, files of others, other programs or new processes (`core.jail` says how far that goes)."""

    keys_type = UnitTestsKeys
    roles: ClassVar[tuple[Role, ...]] = (TESTS,)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0. Raises DataError where a row has no tests, MachineError where this machine cannot shut the jail."""
        limits = Limits(self.keys.seconds, self.keys.memory_mb)
        known: dict[tuple[str, str], float] = {}
        found = []
        for row, answer in zip(rows, answers, strict=True):
            place = str(row.get("place") or row.get("row_id"))
            tests = unit_tests_of(row["tests"], place)
            if tests is None:
                raise DataError("the row has no unit tests", place=place, fix="write them into its column `tests`, or leave the row out")
            pair = (program_of(answer), tests)
            if pair not in known:
                known[pair] = float(run_tests(*pair, limits).passed)
            found.append(known[pair])
        return found
