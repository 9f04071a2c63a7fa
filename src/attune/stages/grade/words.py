"""Numbers as people read them: per cent with one digit, differences in points, plain numbers with three digits behind the point, large ones with one."""

from __future__ import annotations

import math

from attune.core.contracts import Figure
from attune.core.records import Estimate

DASH = "–"


def number(value: float, metric: Figure) -> str:
    """The value without its unit."""
    if math.isnan(value):
        return "undefined"
    return f"{100 * value:.1f}" if metric.percent else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def amount(value: float, metric: Figure) -> str:
    """A value with its unit: 92.1% or 0.134."""
    return f"{number(value, metric)}{'%' if metric.percent and not math.isnan(value) else ''}"


def interval(estimate: Estimate, metric: Figure) -> str:
    """A value with its interval: 92.1% (88.9–95.0)."""
    return f"{amount(estimate.value, metric)} ({number(estimate.low, metric)}{DASH}{number(estimate.high, metric)})"


def points(value: float, metric: Figure) -> str:
    """A difference without its sign: 9.0 points, or 0.134."""
    text = number(abs(value), metric)
    return f"{text} point{'' if text == '1.0' else 's'}" if metric.percent else text


def signed(value: float, metric: Figure) -> str:
    """A difference with its sign: +9.0 or −1.2, without unit."""
    text = number(abs(value), metric)
    if not any(digit in text for digit in "123456789"):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def p_value(p: float) -> str:
    """A p-value: p = 0.031 or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def plain(name: str) -> str:
    """A name for reading: untouched_base -> untouched base."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """A text with a capital at its beginning and a mark at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def listing(names: list[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
