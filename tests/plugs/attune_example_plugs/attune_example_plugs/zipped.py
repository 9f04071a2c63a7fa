"""Write the release as one zip file, to hand it on by mail."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from attune.core.contracts import Export, Prediction, Row
from attune.core.specialist import Specialist, open_bundle

FILE = "release.zip"


class Zipped(Export):
    """The bundle, packed."""

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """Pack every file of the bundle."""
        with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(bundle).as_posix())

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Unpack and ask."""
        with tempfile.TemporaryDirectory() as room, zipfile.ZipFile(folder / FILE) as archive:
            archive.extractall(room)
            return open_bundle(Path(room)).predict(rows)
