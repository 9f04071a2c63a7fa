"""What probes found, with the same intervals and paired tests as the metrics on the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.core.contracts import Probe, ProbeResult
from attune.core.errors import IntegrityError
from attune.stages.grade.gates import TUNED
from attune.stages.grade.statistics import Measured, measure


def measured_probes(probes: Mapping[str, Probe], results: Mapping[str, ProbeResult], resamples: int, confidence: float, seed: int) -> tuple[dict[str, dict[str, Any]], dict[str, Measured]]:
    """Each probe's facts for the scorecard, and its measures by name, for gates.

    Args:
        probes: by their names in the scorecard.
        results: name in the scorecard -> what the probe found.
        resamples: bootstrap resamples and permutations.
        confidence: level of the intervals.
        seed: of the resampling.
    """
    facts: dict[str, dict[str, Any]] = {}
    gated: dict[str, Measured] = {}
    for probe, result in results.items():
        measures = {}
        for one in result.measures:
            if one.name in gated:
                raise IntegrityError(f"two probes measure '{one.name}'", place="grade.probes", fix=f"list '{probe}' once, or give its copies different keys")
            rows = {who: array for who, array in one.rows.items() if len(array)}
            if TUNED not in rows:
                continue  # nothing was seen yet: a gate that asks for it fails, because it was not measured
            (found,) = measure({one.name: one.figure}, {one.name: rows}, first=TUNED, groups=one.groups, resamples=resamples, confidence=confidence, seed=seed).values()
            found.more = _more(probe, probes[probe], max(map(len, rows.values())))
            gated[one.name] = found
            measures[one.name] = {
                "meaning": one.meaning,
                "percent": one.figure.percent,
                "higher_is_better": one.figure.higher_is_better,
                "rows": found.rows,
                "results": {who: estimate.model_dump() for who, estimate in found.estimates.items()},
                "comparisons": [comparison.model_dump() for comparison in found.comparisons.values()],
            }
        facts[probe] = {"name": result.name, "value": result.value, "meaning": result.meaning, "rows": result.rows, "examples": result.examples, "percent": result.percent, "measures": measures}
    return facts, gated


def _more(name: str, probe: Probe, rows: int) -> str:
    """The key that holds a probe back, where it looked at as many rows as it may."""
    most = getattr(probe.keys, "rows", None)
    return f"raise `rows` of probe {name} in grade.probes, now {most}" if most is not None and rows >= most else f"give probe {name} more rows to look at"
