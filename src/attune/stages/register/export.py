"""Letting a release leave in other forms. Each form has to prove itself before it is kept: it answers golden rows as the release does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.commit import committed_folder, is_valid, write_json
from attune.core.contracts import Export, Prediction, Row, TripwireContext, require_fit
from attune.core.errors import AttuneError, IntegrityError, Problems, Refused
from attune.core.events import Events
from attune.core.parity import NetworkVoice, voice_of
from attune.core.records import DatasetVersion, Release
from attune.core.releases import open_release, release_folder
from attune.core.rows import dataset_rows
from attune.core.specialist import Specialist
from attune.core.tripwires import sifted
from attune.core.workspace import Workspace
from attune.stages.register.certificate import CERTIFICATE, certificate, golden_file, replayed

GOLDEN_ROWS = 32
BEGINNING = 200
"""Characters of a document that stand in for a question."""


def export(workspace: Workspace, release: Release, format_names: list[Any], folder: Path, events: Events, recipe_folder: Path | None = None, golden: Path | None = None) -> dict[str, Any]:
    """Write the release in several formats, each into `folder/<format>` (the second of one format into `<format>_2`), and return what was proven of each.

    Args:
        workspace: where the release is.
        release: what leaves.
        format_names: names of export plugs, or mappings with `name` and the plug's keys.
        folder: where the formats' folders are made.
        events: told what happens.
        recipe_folder: where a relative reference to the base model starts.
        golden: JSON lines with rows to replay; default: validation rows of the release's data set.

    Raises:
        IntegrityError: an exported form answers differently; nothing of it is kept.
        Refused: the target folder holds something else.
    """
    bundle = release_folder(workspace, release)
    specialist = open_release(workspace, release, base_folder=recipe_folder)
    rows = golden_rows(workspace, release, specialist) if golden is None else golden_file(golden, specialist)
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
    about = {
        "from": "validation rows" if golden is None else golden.name,
        "row_ids": [row["row_id"] for row in rows],
        "sha256": hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest(),
    }
    own = specialist.predict(rows)
    voice = voice_of(specialist) if {"text-out", "torch"} <= specialist.task.traits else None
    found = {}
    for done, (name, plug) in enumerate(catalog.named(plugs).items(), start=1):
        found[name] = _write(plug, specialist, bundle, release, rows, own, voice, about, folder / name)
        tell = events.warn if found[name]["status"] == "unverified" else events.note
        tell(f"format '{name}' is {found[name]['words']}", folder=str(folder / name))
        events.progress("export", done, len(plugs))
    return found


def golden_rows(workspace: Workspace, release: Release, specialist: Specialist) -> list[Row]:
    """Up to 32 validation rows, spread evenly over the split; a document, which asks nothing, is asked about by its beginning."""
    dataset = workspace.ledger.get(release.dataset_id)
    assert isinstance(dataset, DatasetVersion)
    rows = dataset_rows(workspace, dataset, specialist.task, "validation")
    context = TripwireContext(specialist, catalog.build("objectives", specialist.task.defaults.objective), rows)
    rows = sifted(context, (), held_out=True).rows or rows  # what the base's template refuses can be put to nobody
    if not rows:
        raise IntegrityError(f"dataset '{dataset.id}' holds no validation rows to prove an export on", place="export", fix="curate with validation rows")
    count = min(GOLDEN_ROWS, len(rows))
    found = [rows[i * len(rows) // count] for i in range(count)]
    if "text-out" not in specialist.task.traits:
        return found
    return [row if row.get("prompt") else {**row, "prompt": [{"role": "user", "content": str(row["completion"])[:BEGINNING]}]} for row in found]


def _write(
    plug: Export, specialist: Specialist, bundle: Path, release: Release, rows: list[Row], own: list[Prediction], voice: NetworkVoice | None, golden: dict[str, Any], target: Path
) -> dict[str, Any]:
    about = {"release": release.id, "version": release.version, "bundle_digest": release.bundle_digest, "format": {"name": plug.name, **plug.keys.model_dump(mode="json")}}
    if target.exists() and any(target.iterdir()):
        known = _known(target)
        if known is not None and all(known.get(name) == value for name, value in {**about, "golden": golden}.items()):
            return known
        raise Refused(f"'{target}' exists and holds something else", place=str(target), fix="give another folder, or remove this one")
    with committed_folder(target) as temporary:
        plug.write(specialist, bundle, temporary)
        try:
            figures = replayed(plug, temporary, specialist, voice, own, rows)
        except AttuneError:
            raise
        except Exception as error:  # a broken artefact fails in its engine's own way
            raise IntegrityError(
                f"format '{plug.name}' could not be replayed: {type(error).__name__}: {str(error)[:500]}", place=str(target), fix="nothing was kept; the exported form cannot be used"
            ) from error
        wrong = figures["disagreements"]
        if wrong:
            whole = [one["why"] for one in wrong if not one["row_id"]]
            apart = [one for one in wrong if one["row_id"]]
            said = f"format '{plug.name}' answers {len({one['row_id'] for one in apart})} of {len(rows)} golden rows differently; row {apart[0]['row_id']}: {apart[0]['why']}" if apart else ""
            raise IntegrityError(
                "; ".join([*([said] if said else [f"format '{plug.name}' is not the model that was tuned"]), *whole]),
                place=str(target),
                fix="nothing was kept; the exported form cannot stand for this release",
            )
        proven = {**about, **certificate(plug, temporary, specialist, figures, golden)}
        write_json(temporary / CERTIFICATE, proven)
    return proven


def _known(target: Path) -> dict[str, Any] | None:
    if not is_valid(target) or not (target / CERTIFICATE).is_file():
        return None
    found: dict[str, Any] = json.loads((target / CERTIFICATE).read_text())
    return found
