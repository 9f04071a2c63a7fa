"""1 where the answer has a form, given as a regular expression, else 0: tags, dates, codes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attune.core.contracts import Row
from attune.core.errors import RecipeError
from attune.core.keys import Keys, key
from attune.core.rewards import Reward

MOST = 20_000
"""Characters of an answer that are looked at."""


class RegexKeys(Keys):
    """Keys of the reward."""

    pattern: str = key(r"\S", "regular expression (Python's), in which . also matches line ends")
    whole: bool = key(False, "the whole answer must match, not only a part of it")


class Regex(Reward):
    """Form alone; what is said does not count."""

    keys_type = RegexKeys

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        try:
            self._form = re.compile(self.keys.pattern, re.DOTALL)
        except re.error as error:
            raise RecipeError(f"'{self.keys.pattern}' is no regular expression: {error}", place="rewards.regex.pattern", fix="mend it; a backslash before . ( [ + * ? makes them plain") from error

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0."""
        match = self._form.fullmatch if self.keys.whole else self._form.search
        return [float(match(answer.strip()[:MOST]) is not None) for answer in answers]
