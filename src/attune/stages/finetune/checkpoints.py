"""Checkpoints of a run: committed folders of safetensors + JSON. The newest valid one wins; two are kept; what is torn does not exist."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.commit import committed_folder, is_valid
from attune.core.errors import MachineError

if TYPE_CHECKING:
    import torch

KEEP = 2


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        folder: where `step-00000042/` and `best-00000040/` folders live.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".t*-*"):
            shutil.rmtree(torn, ignore_errors=True)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Commit the state after `step` optimizer steps, then drop all but the newest two and weights that are no longer the best."""
        self._write(f"step-{step:08d}", tensors, facts)
        valid = [path for path in sorted(self.folder.glob("step-*"), reverse=True) if is_valid(path)]
        keep = valid[:KEEP]
        bests = {self._facts(path).get("best", {}).get("step") for path in keep}
        for path in self.folder.glob("step-*"):
            if path not in keep:
                shutil.rmtree(path)
        for path in self.folder.glob("best-*"):
            if int(path.name.split("-")[1]) not in bests:
                shutil.rmtree(path)

    def save_best(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Commit the weights that were best at `step`; a checkpoint refers to them."""
        self._write(f"best-{step:08d}", tensors, {})

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        need = 2 * sum(t.numel() * t.element_size() for t in tensors.values()) + 1_000_000
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise MachineError(
                f"a checkpoint needs {need:,} bytes of disk, {free:,} are free", place=str(self.folder), fix=f"free {need - free:,} bytes and run the same command: it goes on from the last checkpoint"
            )
        with committed_folder(self.folder / name) as folder:
            save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(dict(facts), sort_keys=True))

    def newest(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """State of the newest checkpoint that is whole and whose best weights are whole; None when there is none."""
        from safetensors.torch import load_file

        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if not is_valid(path):
                continue
            facts = self._facts(path)
            best = facts.get("best", {}).get("step")
            if best is not None and not is_valid(self.folder / f"best-{best:08d}"):
                continue
            return load_file(path / "state.safetensors"), facts
        return None

    def best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights that were best at `step`."""
        from safetensors.torch import load_file

        return load_file(self.folder / f"best-{step:08d}" / "state.safetensors")

    def _facts(self, path: Path) -> dict[str, Any]:
        return dict(json.loads((path / "state.json").read_text()))
