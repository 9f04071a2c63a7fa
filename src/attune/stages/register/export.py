"""Letting a release leave in other forms. Each form has to prove itself before it is kept: it answers golden rows as the release does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.commit import committed_folder, is_valid, write_json
from attune.core.contracts import Export, Prediction, Row, require_fit
from attune.core.errors import AttuneError, IntegrityError, Problems, Refused
from attune.core.events import Events
from attune.core.records import DatasetVersion, Release
from attune.core.releases import open_release, release_folder
from attune.core.rows import dataset_rows
from attune.core.specialist import Specialist
from attune.core.workspace import Workspace

GOLDEN_ROWS = 32
TOLERANCE = 1e-4
"""Largest difference of a probability (or of an entry of a vector) that still counts as the same answer."""
PARITY = "parity.json"


def export(workspace: Workspace, release: Release, format_names: list[Any], folder: Path, events: Events, recipe_folder: Path | None = None) -> dict[str, Any]:
    """Write the release in several formats, each into `folder/<format>`, and return what was proven of each.

    Args:
        workspace: where the release is.
        release: what leaves.
        format_names: names of export plugs, or mappings with `name` and the plug's keys.
        folder: where the formats' folders are made.
        events: told what happens.
        recipe_folder: where a relative reference to the base model starts.

    Raises:
        IntegrityError: an exported form answers differently; nothing of it is kept.
        Refused: the target folder holds something else.
    """
    bundle = release_folder(workspace, release)
    specialist = open_release(workspace, release, base_folder=recipe_folder)
    rows = golden_rows(workspace, release, specialist)
    own = specialist.predict(rows)
    plugs: list[Export] = []
    problems: list[AttuneError] = []
    for number, spec in enumerate(format_names):
        try:
            plug: Export = catalog.build("exports", spec, f"exports[{number}]")
            require_fit(specialist.task, plug)
            plugs.append(plug)
        except AttuneError as error:
            problems.append(error)
    if problems:
        raise Problems(problems, title="formats that cannot be written:")
    found = {}
    for done, plug in enumerate(plugs, start=1):
        found[plug.name] = _write(plug, specialist, bundle, release, rows, own, folder / plug.name)
        events.note(f"format '{plug.name}' answers {len(rows)} golden rows as the release does", folder=str(folder / plug.name), **found[plug.name])
        events.progress("export", done, len(plugs))
    return found


def golden_rows(workspace: Workspace, release: Release, specialist: Specialist) -> list[Row]:
    """Up to 32 validation rows, spread evenly over the split."""
    dataset = workspace.ledger.get(release.dataset_id)
    assert isinstance(dataset, DatasetVersion)
    rows = dataset_rows(workspace, dataset, specialist.task, "validation")
    if not rows:
        raise IntegrityError(f"dataset '{dataset.id}' holds no validation rows to prove an export on", place="export", fix="curate with validation rows")
    count = min(GOLDEN_ROWS, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _write(plug: Export, specialist: Specialist, bundle: Path, release: Release, rows: list[Row], own: list[Prediction], target: Path) -> dict[str, Any]:
    about = {"release": release.id, "version": release.version, "bundle_digest": release.bundle_digest, "format": {"name": plug.name, **plug.keys.model_dump(mode="json")}}
    if target.exists() and any(target.iterdir()):
        known = _known(target)
        if known is not None and all(known.get(name) == value for name, value in about.items()):
            return known
        raise Refused(f"'{target}' exists and holds something else", place=str(target), fix="give another folder, or remove this one")
    with committed_folder(target) as temporary:
        plug.write(specialist, bundle, temporary)
        parity = compare(own, plug.replay(temporary, rows), rows)
        parity = {**about, **parity}
        if parity["disagreements"]:
            first = parity["disagreements"][0]
            raise IntegrityError(
                f"format '{plug.name}' answers {len(parity['disagreements'])} of {len(rows)} golden rows differently; row {first['row_id']}: {first['why']}",
                place=str(target),
                fix="nothing was kept; the exported form cannot stand for this release",
            )
        write_json(temporary / PARITY, parity)
    return parity


def _known(target: Path) -> dict[str, Any] | None:
    import json

    if not is_valid(target) or not (target / PARITY).is_file():
        return None
    found: dict[str, Any] = json.loads((target / PARITY).read_text())
    return found


def compare(own: Sequence[Prediction], theirs: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """How two contestants' answers to the same rows differ: `rows`, `max_difference` (of probabilities or vector entries) and
    `disagreements` (row id and why)."""
    if len(own) != len(rows) or len(theirs) != len(rows):
        raise IntegrityError(f"{len(theirs)} answers came back to {len(rows)} golden rows", place="export", fix="the exported form does not answer every row")
    disagreements = []
    largest = 0.0
    for row, a, b in zip(rows, own, theirs, strict=True):
        why, difference = _difference(a, b)
        largest = max(largest, difference) if math.isfinite(difference) else largest
        if why:
            disagreements.append({"row_id": row.get("row_id", ""), "why": why})
    return {"rows": len(rows), "max_difference": largest, "tolerance": TOLERANCE, "disagreements": disagreements}


def _difference(a: Prediction, b: Prediction) -> tuple[str, float]:
    """Why two answers are not the same ('' when they are) and their largest numeric difference."""
    first, second = _vector(a.output), _vector(b.output)
    if first is not None:
        if second is None or len(second) != len(first):
            return "one is a vector, the other is none of the same length", 0.0
        difference = max((_apart(x, y) for x, y in zip(first, second, strict=True)), default=0.0)
        return (f"vectors differ by {difference:.2e}" if not difference <= TOLERANCE else ""), difference
    if a.output != b.output:
        return f"{a.output!r} became {b.output!r}", 0.0
    if a.scores.keys() != b.scores.keys():
        return "probabilities of other labels", 0.0
    difference = max((_apart(a.scores[label], b.scores[label]) for label in a.scores), default=0.0)
    return (f"a probability differs by {difference:.2e}" if not difference <= TOLERANCE else ""), difference


def _apart(x: float, y: float) -> float:
    """|x - y|; infinite where either is not a number, so that it can never count as agreement."""
    return abs(x - y) if math.isfinite(x) and math.isfinite(y) else math.inf


def _vector(output: Any) -> list[float] | None:
    values = output.tolist() if hasattr(output, "tolist") else output
    if isinstance(values, float):
        values = [values]
    if isinstance(values, (list, tuple)) and values and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values):
        return [float(x) for x in values]
    return None
