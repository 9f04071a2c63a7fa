"""Columns that several rewards read."""

from __future__ import annotations

from attune.core.contracts import Role

ANSWER = Role("completion", "text", "the right answer", ("completion", "answer", "solution", "output", "response", "target", "reply", "ground_truth"), target=True, numbers=True)
