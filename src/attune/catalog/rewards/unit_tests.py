"""1 where the answer, a Python program, passes the row's unit tests in a jailed process, else 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from attune.core.contracts import Role, Row
from attune.core.jail import Limits, run_tests
from attune.core.keys import Keys, key
from attune.core.rewards import Reward

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


class UnitTestsKeys(Keys):
    """Keys of the reward."""

    seconds: float = key(5.0, "time that one program may take", gt=0, le=600)
    memory_mb: int = key(512, "memory that one program may take, in megabytes", ge=64)


class UnitTests(Reward):
    """Programs run without network, files of others, other programs or new processes (`core.jail` says how far that goes)."""

    keys_type = UnitTestsKeys
    roles: ClassVar[tuple[Role, ...]] = (Role("tests", "any", "Python code that raises when the answer is wrong: a text or a list of lines", ("tests", "test_list", "unit_tests"), target=True),)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0. Raises MachineError where this machine cannot shut the jail."""
        limits = Limits(self.keys.seconds, self.keys.memory_mb)
        known: dict[tuple[str, str], float] = {}
        found = []
        for row, answer in zip(rows, answers, strict=True):
            tests = row["tests"]
            pair = (_program(answer), "\n".join(map(str, tests)) if isinstance(tests, list) else str(tests))
            if pair not in known:
                known[pair] = float(run_tests(*pair, limits).passed)
            found.append(known[pair])
        return found


def _program(answer: str) -> str:
    """The code of an answer: what stands between fences, else all of it."""
    blocks = _FENCE.findall(answer)
    return "\n".join(blocks) if blocks else answer
