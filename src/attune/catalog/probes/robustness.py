"""Does the answer stay the same when the text is typed a little differently? Typos, other case, lost punctuation, extra spaces."""

from __future__ import annotations

import copy
import re
import string
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from attune.core import randomness
from attune.core.contracts import Probe, ProbeContext, ProbeResult, Row
from attune.core.errors import PlugError
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist
from attune.core.text import portion

SAME_DIRECTION = 0.95
"""Two vectors with at least this cosine count as the same answer."""
_NEIGHBOURS = {a: near for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for i, a in enumerate(row) for near in [row[max(i - 1, 0) : i] + row[i + 1 : i + 2]]}


class RobustnessKeys(Keys):
    """Keys of the probe."""

    rows: int = key(100, "test rows to try, each in four ways; more take longer", ge=1)
    examples: int = key(6, "changed answers to show", ge=0)


class Robustness(Probe):
    """Every row is asked again with a typo, in other case, without punctuation and with extra spaces; none of it changes what is meant.

    A task that scores answers is asked which of a row's two answers it prefers: the scores themselves move with every letter.
    """

    keys_type = RobustnessKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in"})

    def run(self, context: ProbeContext) -> ProbeResult:
        """Share of all perturbed rows whose answer stays as it was."""
        specialist, rows, seed = context.specialist, context.rows, context.seed
        roles = [role for role in specialist.task.roles if not role.target and role.type in ("text", "messages")]
        if not roles:
            raise PlugError(f"task '{specialist.task.name}' has no text column to change", place="grade.probes", fix="leave out robustness")
        chosen = sorted(randomness.generator(seed, "probe.robustness.rows").permutation(len(rows))[: self.keys.rows])
        asked = [_altered(rows[i], roles[0].name, lambda text: _read(text, specialist, roles[0].type)) for i in chosen]
        ask = specialist.examine if "score-out" in specialist.task.traits else specialist.predict
        before = ask(asked)
        kept = dict.fromkeys(PERTURBATIONS, 0)
        flips: list[dict[str, Any]] = []
        for number, (name, change) in enumerate(PERTURBATIONS.items()):
            altered = [_altered(row, roles[0].name, lambda text, p=place, c=change, n=number: c(text, randomness.generator(seed, "probe.robustness", n, p))) for place, row in enumerate(asked)]  # type: ignore[misc]
            for row, changed, first, second in zip(asked, altered, before, ask(altered), strict=True):
                if _same(first.output, second.output):
                    kept[name] += 1
                else:
                    flips.append(
                        {"change": name, "text": specialist.task.text(row), "changed to": specialist.task.text(changed), "answer before": str(first.output), "answer after": str(second.output)}
                    )
        tried = len(asked) * len(PERTURBATIONS)
        shares = ", ".join(f"{name} {count / len(asked):.1%}" for name, count in kept.items()) if asked else "no rows"
        picked = randomness.generator(seed, "probe.robustness.examples").permutation(len(flips))[: self.keys.examples]
        meaning = f"share of answers that stay the same when the text is typed differently ({shares})"
        return ProbeResult(self.name, sum(kept.values()) / tried if tried else float("nan"), meaning, len(asked), tuple(flips[i] for i in sorted(picked)))


def _read(text: str, specialist: Specialist, role_type: str) -> str:
    """As much of a text as the model reads: of messages the end, else the beginning; a change behind that would test nothing."""
    return portion(text, specialist.max_length, end=role_type == "messages")


def typo(text: str, random: np.random.Generator) -> str:
    """One slip of the finger in one word of four letters or more: a neighbouring key, two letters swapped, one doubled or lost."""
    words = list(re.finditer(r"[^\W\d_]{4,}", text))
    if not words:
        return text
    word = words[int(random.integers(len(words)))]
    place = int(random.integers(word.start() + 1, word.end() - 1))
    kind = int(random.integers(4))
    near = _NEIGHBOURS.get(text[place].lower(), "")
    if kind == 0 and near:
        return text[:place] + near[int(random.integers(len(near)))] + text[place + 1 :]
    if kind <= 1 and text[place] != text[place + 1]:
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text[:place] + text[place + 1 :] if kind == 2 else text[:place] + text[place] + text[place:]


def case(text: str, random: np.random.Generator) -> str:
    """All in capitals, or all in small letters when it is not so already."""
    return text.upper() if text == text.lower() or random.random() < 0.5 else text.lower()


def punctuation(text: str, random: np.random.Generator) -> str:
    """Marks at the ends of words removed; where there are none, one of . ! ? is added at the end."""
    bare = re.sub(rf"[{re.escape(string.punctuation)}]+(?=\s|$)", "", text)
    return bare if bare != text and bare.strip() else text + ".!?"[int(random.integers(3))]


def spaces(text: str, random: np.random.Generator) -> str:
    """One space doubled and one put at an end."""
    places = [match.start() for match in re.finditer(r"\s", text)]
    doubled = text if not places else (lambda p: text[:p] + " " + text[p:])(places[int(random.integers(len(places)))])
    return f" {doubled}" if random.random() < 0.5 else f"{doubled} "


PERTURBATIONS: dict[str, Callable[[str, np.random.Generator], str]] = {"typo": typo, "case": case, "punctuation": punctuation, "spaces": spaces}


def _altered(row: Row, role: str, change: Callable[[str], str]) -> Row:
    """A copy of the row with its text changed; of a conversation, the last user turn."""
    altered = copy.deepcopy(row)
    value = altered.get(role)
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, dict) and turn.get("role") == "user"]
        if turns:
            turns[-1]["content"] = change(str(turns[-1]["content"]))
    elif value is not None:
        altered[role] = change(str(value))
    return altered


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list) and first and isinstance(first[0], float):
        a, b = np.array(first), np.array(second)
        return bool(a @ b >= SAME_DIRECTION * np.linalg.norm(a) * np.linalg.norm(b))
    return bool(first == second)
