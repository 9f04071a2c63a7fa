"""What the plugs of a recipe name and a fingerprint has to see: files, bundles and models by what is in them, not by where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from attune.core.commit import sha256_file
from attune.core.contracts import Plug
from attune.core.errors import AttuneError
from attune.core.models import Base, resolve_base
from attune.core.records import digest


def contents(plugs: Iterable[Plug]) -> dict[str, str]:
    """Digests of everything that plugs and their parts read (`Plug.reads`, `Plug.models`), by name. A file that is not there yet has none.

    Raises:
        AttuneError: a model cannot be found; the place is the key that names it.
    """
    found: dict[str, str] = {}
    for plug in plugs:
        found |= {os.path.relpath(path, plug.folder): _content(path) for path in plug.reads() if path.exists()}
        found |= {f"{plug.name}.{name} {reference}": str(named_model(plug, name).identity["digest"]) for name, (reference, _) in plug.models().items()}
        found |= contents(plug.parts())
    return dict(sorted(found.items()))


def named_model(plug: Plug, name: str) -> Base:
    """The model that a plug's key names; relative folders begin in the recipe's."""
    reference, revision = plug.models()[name]
    try:
        return resolve_base(reference, revision, plug.folder)
    except AttuneError as error:
        error.place = f"{plug.kind[:-1]} {plug.name}.{name}"
        raise


def _content(path: Path) -> str:
    if path.is_dir():
        return digest({one.relative_to(path).as_posix(): sha256_file(one) for one in sorted(path.rglob("*")) if one.is_file()})
    return sha256_file(path)
