"""Copy the release as Attune's own bundle: opens with Attune on another machine, every hash checked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from attune.core.commit import manifest_of, seal
from attune.core.contracts import Export, Prediction, Row
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist, open_bundle


class BundleKeys(Keys):
    """Keys of the export."""

    reference: bool = key(False, "take along the drift reference, which holds the (masked) texts of the test rows")


class Bundle(Export):
    """Bundle, card, scorecard and recipe, as released."""

    keys_type = BundleKeys

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """Copy every committed file, and the base where it is only a folder of this machine; commit the copy."""
        for name in manifest_of(bundle)["files"]:
            if name.startswith("reference") and not self.keys.reference:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target)
        if specialist.base.local and specialist.method is not None and specialist.method.needs_base:
            specialist.base.copy(folder / "base")
        seal(folder)

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Open the copy as another machine would, and ask it."""
        return open_bundle(folder).predict(rows)
