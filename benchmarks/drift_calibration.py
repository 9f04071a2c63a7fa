"""Do alarms mean something? A simulated year of days without drift, and days with drift, through the detectors and their calibration.

    python benchmarks/drift_calibration.py [--out FILE.json] [--days 365] [--seed 7] [--windows 50 200 500 2000] [--references 200 1000] [--only-false-alarms]

Every day is a fresh window and a fresh reference of the size given, so that days are independent and the figure is the rate that the budget
promises (an average over releases). `one_release` keeps one reference for a whole year and shows the spread between releases. Drifts, each alone:
one of 16 classes gains 10 points; embeddings move by 0.5 standard deviations along 4 of 32 directions; accuracy falls by 10 points, with and
without feedback. A failure is a row whose false alarms exceed what the stated budget gives with probability 0.999, or a drift of these
sizes that 1,000 reference rows and 300 or more window rows do not show on 90 % of days.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, write
from scipy.stats import binom

from attune.core import catalog
from attune.core.contracts import Detector, WindowData
from attune.core.randomness import generator
from attune.core.recipe import WatchKeys
from attune.stages.watch.calibration import permutation_test, resamples_needed, significance

sys.path.insert(0, str(ROOT))  # the tests' small simulation and this large one are of the same world
from tests.watch.worlds import world

DETECTORS = ("embedding_shift", "label_shift", "performance_drop")
DRIFTS: dict[str, dict[str, float]] = {
    "one class +10 points": {"class_points": 0.10},
    "embeddings +0.5 sd in 4 of 32 directions": {"embedding_sd": 0.5},
    "accuracy -10 points, feedback on every row": {"accuracy_points": 0.10},
    "accuracy -10 points, no feedback": {"accuracy_points": 0.10, "feedback": 0.0},
}
MUST_BE_SEEN_FROM = (1000, 300)
"""Reference and window rows from which a drift of these sizes has to be seen."""
MUST_BE_SEEN_WITH_FEEDBACK = {name for name in DRIFTS if "no feedback" not in name}
PROBABILITY = 0.999


def examined(detectors: list[Detector], keys: WatchKeys, reference: WindowData, window: WindowData, seed: int, day: int) -> dict[str, bool]:
    """Detector -> alarm on one day."""
    level = significance(keys, len(detectors))
    found = {}
    for number, detector in enumerate(detectors):
        sides = (side.take(detector.usable(side)) for side in (reference, window))
        found[detector.name] = permutation_test(detector, *sides, level, resamples_needed(keys, level), generator(seed, "divisions", day, number)).alarm
    return found


def seed_of(seed: int, *numbers: int) -> int:
    return int(generator(seed, "day", *numbers).integers(2**62))


def false_alarms(detectors: list[Detector], keys: WatchKeys, rows: int, reference_rows: int, days: int, seed: int) -> dict[str, Any]:
    """A year without drift, every day with a reference of its own."""
    by_detector = dict.fromkeys((d.name for d in detectors), 0)
    alarmed = 0
    for day in range(days):
        reference, window = (world(n, seed_of(seed, day, rows, n, side)) for side, n in enumerate((reference_rows, rows)))
        found = examined(detectors, keys, reference, window, seed, day)
        alarmed += any(found.values())
        for name, alarm in found.items():
            by_detector[name] += alarm
    allowed = days / keys.false_alarms_days
    bound = int(binom.ppf(PROBABILITY, days, min(1.0, 1 / keys.false_alarms_days)))
    return {"window_rows": rows, "reference_rows": reference_rows, "days": days, "false_alarm_days": alarmed, "allowed": allowed, "bound": bound, "by_detector": by_detector, "failed": alarmed > bound}


def one_release(detectors: list[Detector], keys: WatchKeys, rows: int, reference_rows: int, days: int, releases: int, seed: int) -> dict[str, Any]:
    """The same, each release with one reference for all its days: mean and spread over releases."""
    counts = []
    for release in range(releases):
        reference = world(reference_rows, seed_of(seed, release, 1))
        counts.append(sum(any(examined(detectors, keys, reference, world(rows, seed_of(seed, release, 2, day)), seed, day).values()) for day in range(days)))
    return {
        "window_rows": rows,
        "reference_rows": reference_rows,
        "days": days,
        "releases": releases,
        "allowed": days / keys.false_alarms_days,
        "mean": float(np.mean(counts)),
        "median": float(np.median(counts)),
        "highest": int(max(counts)),
    }


def power(detectors: list[Detector], keys: WatchKeys, drift: str, rows: int, reference_rows: int, days: int, seed: int) -> dict[str, Any]:
    """Share of days on which one drift is seen: by any detector, and by each."""
    seen, by_detector = 0, dict.fromkeys((d.name for d in detectors), 0)
    for day in range(days):
        reference = world(reference_rows, seed_of(seed, day, rows, reference_rows, 3))
        window = world(rows, seed_of(seed, day, rows, reference_rows, 4), **DRIFTS[drift])
        found = examined(detectors, keys, reference, window, seed, day)
        seen += any(found.values())
        for name, alarm in found.items():
            by_detector[name] += alarm
    must = drift in MUST_BE_SEEN_WITH_FEEDBACK and reference_rows >= MUST_BE_SEEN_FROM[0] and rows >= MUST_BE_SEEN_FROM[1]
    shares = {name: count / days for name, count in by_detector.items()}
    return {"drift": drift, "window_rows": rows, "reference_rows": reference_rows, "days": days, "seen": seen / days, "by_detector": shares, "failed": must and seen < 0.9 * days}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--power-days", type=int, default=50)
    parser.add_argument("--releases", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--windows", type=int, nargs="+", default=[50, 200, 500, 2000])
    parser.add_argument("--references", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--only-false-alarms", action="store_true")
    options = parser.parse_args()
    keys = WatchKeys()
    detectors: list[Detector] = [catalog.build("detectors", name) for name in DETECTORS]
    begin = time.perf_counter()
    quiet, spread, drifts = [], [], []
    for reference_rows in options.references:
        for rows in options.windows:
            quiet.append(false_alarms(detectors, keys, rows, reference_rows, options.days, options.seed))
            print(quiet[-1], flush=True)
    if not options.only_false_alarms:
        for reference_rows in options.references:
            spread.append(one_release(detectors, keys, 200, reference_rows, options.days, options.releases, options.seed))
            print(spread[-1], flush=True)
            for rows in sorted({*options.windows, 300}):
                for drift in DRIFTS:
                    drifts.append(power(detectors, keys, drift, rows, reference_rows, options.power_days, options.seed))
                    print(drifts[-1], flush=True)
    level = significance(keys, len(detectors))
    body = {
        "n": len(quiet) + len(drifts),
        "failures": sum(row["failed"] for row in [*quiet, *drifts]),
        "seed": options.seed,
        "false_alarms_days": keys.false_alarms_days,
        "level": level,
        "resamples": resamples_needed(keys, level),
        "false_alarms": quiet,
        "one_release": spread,
        "power": drifts,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write(options.out, "drift_calibration", {**body, **table(body)})


def table(body: dict[str, Any]) -> dict[str, Any]:
    """The page's table: a row per size of window and reference."""
    rows = []
    for quiet in body["false_alarms"]:
        size = {name: quiet[name] for name in ("reference_rows", "window_rows")}
        seen = {row["drift"]: row["seen"] for row in body["power"] if size.items() <= row.items()}
        rows.append([*size.values(), f"{quiet['false_alarm_days']} in {quiet['days']} days", *(f"{seen[drift]:.0%}" if drift in seen else "-" for drift in DRIFTS)])
    spread = "; ".join(f"{one['reference_rows']} reference rows: {one['mean']:.1f} on average, {one['median']:.0f} in the middle, {one['highest']} at most" for one in body["one_release"])
    notes = [
        f"Simulated days with {len(DETECTORS)} detectors and `false_alarms_days: {body['false_alarms_days']}`, so {body['false_alarms'][0]['allowed']:.1f} false alarms are allowed in the days above; "
        f"drift columns: share of days on which it is seen the same day. Seed {body['seed']}.",
        "",
    ]
    if spread:
        days, releases = body["one_release"][0]["days"], body["one_release"][0]["releases"]
        notes += [f"False alarms of {releases} single releases, each with one reference for {days} days of 200 rows: {spread}.", ""]
    columns = ["reference rows", "rows a day", "false alarms", *DRIFTS]
    return {"title": "Drift alarms", "command": "python benchmarks/drift_calibration.py", "columns": columns, "rows": rows, "notes": notes}


if __name__ == "__main__":
    main()
