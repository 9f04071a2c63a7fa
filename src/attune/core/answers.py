"""Comparing answers: label sets, normalised texts, numbers, right or wrong."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from attune.core.contracts import Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"(?<![\w.])([-+−]?)[$€£]?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)((?:[eE][-+]?\d{1,3}(?!\d))?)(?:/([1-9]\d*))?")
MOST_DIGITS = 400
"""Longer numbers are none."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def label_set(answer: Any) -> frozenset[str]:
    """The labels of an answer: one label, several, or none."""
    if answer is None:
        return frozenset()
    if isinstance(answer, (list, tuple, set, frozenset)):
        return frozenset(str(one) for one in answer)
    return frozenset((str(answer),))


def accepted(truth: Any) -> list[str]:
    """The right texts of a row: usually one; a list means that any of them is right."""
    if truth is None:
        return []
    return [str(one) for one in truth] if isinstance(truth, (list, tuple)) else [str(truth)]


def normalised(text: Any) -> str:
    """A text in lower case without punctuation, English articles and extra spaces (Rajpurkar et al. 2016, SQuAD, section 6.1).

    A text that is nothing else ("A", "?") keeps what it has, so that it never equals an empty answer.
    """
    plain = " ".join(str(text if text is not None else "").lower().split())
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split()) or plain


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly: 1,234.50, $7, -3 (also with the sign U+2212), 1e3, 1/2; None without one."""
    found = [match for match in _NUMBER.finditer(text) if len(match[0]) <= MOST_DIGITS]
    if not found:
        return None
    sign, number, exponent, below = found[-1].groups()
    value = Fraction(number.replace(",", "") + exponent) / int(below or 1)
    return -value if sign in ("-", "−") else value


def _run_together(words: Sequence[Any]) -> str:
    """Words, or pieces of them, without what lies between."""
    return "".join(str(one).removeprefix("##") for one in words).replace(" ", "").lower()


def is_right(task: Task, truth: Any, output: Any) -> bool:
    """True when an answer counts as right: the same label set, an accepted text after `normalised`, a right text ranked first, or all hidden words."""
    if "label-out" in task.traits:
        return label_set(truth) == label_set(output)
    if "mask-out" in task.traits:
        return _run_together(output) == _run_together(accepted(truth))
    if isinstance(output, (list, tuple)):
        return bool(output) and str(output[0]) in accepted(truth)
    return normalised(output) in {normalised(one) for one in accepted(truth)}
