"""Releases as they lie in the store: what part of the folder is the bundle, whether it is still what was released, and how to open it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attune.core.commit import digest_of_files, manifest_of
from attune.core.errors import IntegrityError
from attune.core.records import Release
from attune.core.specialist import FACTS, Specialist, open_bundle
from attune.core.workspace import Workspace

BUNDLE_FOLDERS = ("model", "tokenizer")


def bundle_files(folder: Path) -> Iterator[str]:
    """Names of the files of a committed folder that make up the bundle (facts, model, tokenizer), without card, scorecard and reference."""
    for name in sorted(manifest_of(folder)["files"]):
        if name == FACTS or name.split("/")[0] in BUNDLE_FOLDERS:
            yield name


def bundle_digest(folder: Path) -> str:
    """sha256 over names, sizes and hashes of the bundle's files as the folder's manifest states them; the same for a checkpoint and its release."""
    files = manifest_of(folder)["files"]
    return digest_of_files({name: files[name] for name in bundle_files(folder)})


def release_folder(workspace: Workspace, release: Release) -> Path:
    """The release's folder after every file was checked against the manifest and the bundle against the record; raises IntegrityError."""
    folder = workspace.store.path(release.store_key)
    if bundle_digest(folder) != release.bundle_digest:
        raise IntegrityError(f"the bundle of release '{release.id}' is not the one that was released", place=str(folder), fix="restore it from a backup or register the checkpoint again")
    return folder


def open_release(workspace: Workspace, release: Release, *, base_folder: Path | None = None) -> Specialist:
    """The release ready to answer, labelled with its id; every hash is checked before anything is used."""
    return open_bundle(release_folder(workspace, release), base_folder=base_folder, id=release.id)
