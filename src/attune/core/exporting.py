"""Letting a release leave in other forms, for a person or for an engine that is to serve it. Each form has to prove itself before it is
kept: it answers golden rows as the release does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.certificate import CERTIFICATE, certificate, golden_file, replayed
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

GOLDEN_ROWS = 32
BEGINNING = 200
"""Characters of a document that stand in for a question."""


@dataclass(frozen=True)
class Witness:
    """A release beside golden rows: what every form of it that is written has to answer like."""

    release: Release
    bundle: Path
    specialist: Specialist
    rows: list[Row]
    golden: dict[str, Any]
    """Where the rows come from, their ids and a hash of their contents, for the certificate."""

    @classmethod
    def of(cls, workspace: Workspace, release: Release, specialist: Specialist, golden: Path | None = None) -> Witness:
        """The release, opened, beside the rows of a file (JSON lines), or validation rows of its data set."""
        rows = golden_rows(workspace, release, specialist) if golden is None else golden_file(golden, specialist)
        about = {
            "from": "validation rows" if golden is None else golden.name,
            "row_ids": [row["row_id"] for row in rows],
            "sha256": hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest(),
        }
        return cls(release, release_folder(workspace, release), specialist, rows, about)

    @cached_property
    def answers(self) -> list[Prediction]:
        """The release's own answers to the golden rows."""
        return self.specialist.predict(self.rows)

    @cached_property
    def voice(self) -> NetworkVoice | None:
        """The release token by token, where it writes."""
        return voice_of(self.specialist) if {"text-out", "torch"} <= self.specialist.task.traits else None

    def write(self, plug: Export, target: Path) -> dict[str, Any]:
        """Write a form into `target` and let it answer the golden rows; returns its certificate, which lies in the folder as well.

        Raises:
            IntegrityError: it answers differently; nothing of it is kept.
            Refused: the target folder holds something else.
        """
        if target.exists() and any(target.iterdir()):
            known = certificate_of(target)
            if known is not None and all(known.get(name) == value for name, value in {**form_of(self.release, plug), "golden": self.golden}.items()):
                return known
            raise Refused(f"'{target}' exists and holds something else", place=str(target), fix="give another folder, or remove this one")
        with committed_folder(target) as temporary:
            plug.write(self.specialist, self.bundle, temporary)
            try:
                figures = replayed(plug, temporary, self.specialist, self.voice, self.answers, self.rows)
            except AttuneError:
                raise
            except Exception as error:  # a broken artefact fails in its engine's own way
                raise IntegrityError(
                    f"format '{plug.name}' could not be replayed: {type(error).__name__}: {str(error)[:500]}", place=str(target), fix="nothing was kept; the exported form cannot be used"
                ) from error
            _require_agreement(plug, figures, len(self.rows), target)
            proven = {**form_of(self.release, plug), **certificate(plug, temporary, self.specialist, figures, self.golden)}
            write_json(temporary / CERTIFICATE, proven)
        return proven


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
    witness = Witness.of(workspace, release, open_release(workspace, release, base_folder=recipe_folder), golden)
    plugs: list[Export] = []
    problems: list[AttuneError] = []
    for number, spec in enumerate(format_names):
        try:
            plug: Export = catalog.build("exports", spec, f"exports[{number}]")
            require_fit(witness.specialist.task, plug)
            plugs.append(plug)
        except AttuneError as error:
            problems.append(error)
    if problems:
        raise Problems(problems, title="formats that cannot be written:")
    found = {}
    for done, (name, plug) in enumerate(catalog.named(plugs).items(), start=1):
        found[name] = witness.write(plug, folder / name)
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


def form_of(release: Release, plug: Export) -> dict[str, Any]:
    """What a certificate says of which release it is and of which form."""
    return {"release": release.id, "version": release.version, "bundle_digest": release.bundle_digest, "format": {**plug.keys.model_dump(mode="json"), "name": plug.name}}


def certificate_of(folder: Path) -> dict[str, Any] | None:
    """The certificate in a committed folder of which no byte has changed since; None where there is none."""
    if not is_valid(folder) or not (folder / CERTIFICATE).is_file():
        return None
    found: dict[str, Any] = json.loads((folder / CERTIFICATE).read_text())
    return found


def _require_agreement(plug: Export, figures: dict[str, Any], rows: int, target: Path) -> None:
    wrong = figures["disagreements"]
    if not wrong:
        return
    whole = [one["why"] for one in wrong if not one["row_id"]]
    apart = [one for one in wrong if one["row_id"]]
    said = f"format '{plug.name}' answers {len({one['row_id'] for one in apart})} of {rows} golden rows differently; row {apart[0]['row_id']}: {apart[0]['why']}" if apart else ""
    raise IntegrityError(
        "; ".join([*([said] if said else [f"format '{plug.name}' is not the model that was tuned"]), *whole]),
        place=str(target),
        fix="nothing was kept; the exported form cannot stand for this release",
    )
