"""Checkpoints of a run on disk: committed folders of safetensors + JSON. The newest valid one wins; two are kept; what is torn does not exist."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.commit import committed_folder, make_folder, verify
from attune.core.errors import AttuneError, IntegrityError, MachineError, PlugError

if TYPE_CHECKING:
    import torch

KEEP = 2
SPARE = 1_000_000
"""Bytes beyond the tensors that a checkpoint's small files, folders and the run's events may take."""


class DiskFull(MachineError):
    """There is no room for a checkpoint; `need` is how many bytes it takes."""

    def __init__(self, need: int, folder: Path, what: str) -> None:
        super().__init__(f"a checkpoint needs {need:,} bytes of disk, {what}", place=str(folder), fix="free that much and run the same command: it goes on from the last checkpoint")
        self.need = need


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        folder: where `step-00000042/` and `best-00000040/` folders live.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[AttuneError] = []
        """What `find` passed over, and why; newest first."""
        self.most = 0
        """The most bytes that they took since the start: after a save, before older ones are dropped."""
        self._whole: dict[str, int | None] = {}
        """Checkpoints that this process has verified, oldest first, and the step of the best weights that each refers to."""

    def clear(self) -> None:
        """Remove what a killed save or deletion left behind; called before a run starts or goes on."""
        for torn in self.folder.glob(".t*-*"):
            shutil.rmtree(torn, ignore_errors=True)

    def go_on_after(self, step: int) -> None:
        """Make way for a run that goes on after `step` (-1: from the beginning).

        Newer checkpoints are there only when they were refused: they become `refused-*`, for a person to look at. Newer best weights that
        nothing refers to yet are deleted: the run makes them again.
        """
        damaged = {Path(error.place or "").name for error in self.refused}
        for path in self.folder.glob("*-*"):
            kind, _, number = path.name.partition("-")
            if kind not in ("step", "best") or not number.isdigit() or int(number) <= step:
                continue
            if kind == "best" and path.name not in damaged:
                self._drop(path)
                continue
            try:
                os.rename(path, self.folder / f"refused-{path.name}-{uuid.uuid4().hex[:8]}")
            except OSError as error:
                raise MachineError(f"cannot set '{path.name}' aside: {error}", place=str(self.folder), fix="mend the permissions or the disk, then run again") from error

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Commit the state after `step` optimizer steps and verify it; only then drop all but the newest two, and weights that are no longer the best.

        Raises:
            DiskFull: no room; nothing half-written is left, the older checkpoints stand.
            MachineError: the disk failed in another way; likewise.
        """
        name = f"step-{step:08d}"
        self._write(name, tensors, facts)
        self.most = max(self.most, self._held())
        self._whole.pop(name, None)
        self._whole[name] = facts.get("best", {}).get("step")
        self._drop_old()

    def save_best(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Commit the weights that were best at `step`; a checkpoint that refers to them must be saved after them."""
        self._write(f"best-{step:08d}", tensors, {})

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        need = sum(t.numel() * t.element_size() for t in tensors.values()) + SPARE
        try:
            make_folder(self.folder)
            free = shutil.disk_usage(self.folder).free
            if free < need:
                raise DiskFull(need, self.folder, f"{free:,} are free")
            with committed_folder(self.folder / name) as folder:
                write_tensors(folder / "state.safetensors", tensors)
                (folder / "state.json").write_text(json.dumps(dict(facts), sort_keys=True))
        except (MachineError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(need, self.folder, "and the disk (or its quota) is full") from error
            if isinstance(error, OSError):
                raise MachineError(
                    f"cannot write a checkpoint: {error}", place=str(self.folder), fix="mend the permissions or the disk, then run again: it goes on from the last checkpoint"
                ) from error
            raise
        try:
            verify(self.folder / name)
        except IntegrityError as error:
            raise MachineError(
                f"the disk does not give back what was written: {error.what}", place=str(self.folder / name), fix="look at the disk's health; the older checkpoints are untouched"
            ) from error

    def _held(self) -> int:
        """Bytes of all checkpoints that are there."""
        return sum(path.stat().st_size for folder in self.folder.glob("*-*") for path in folder.iterdir())

    def _drop_old(self) -> None:
        self._whole = dict([*self._whole.items()][-KEEP:])
        for path in self.folder.glob("*-*"):
            kind, _, number = path.name.partition("-")
            if (kind == "step" and path.name not in self._whole) or (kind == "best" and number.isdigit() and int(number) not in self._whole.values()):
                self._drop(path)

    def _drop(self, path: Path) -> None:
        gone = self.folder / f".torn-{path.name}-{uuid.uuid4().hex[:8]}"
        try:
            os.rename(path, gone)  # at once, so that a kill leaves no half of it
        except OSError:
            return  # what cannot go now goes after the next save; nothing depends on it
        shutil.rmtree(gone, ignore_errors=True)

    def find(self) -> tuple[str, dict[str, Any]] | None:
        """Name and facts of the newest checkpoint that is whole and whose best weights are whole; None when there is none.

        Newer ones that were passed over are in `refused`.
        """
        self.refused = []
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                verify(path)
                facts = self._facts(path.name)
                best = facts.get("best", {}).get("step")
                if best is not None:
                    verify(self.folder / f"best-{best:08d}")
            except IntegrityError as error:
                self.refused.append(error)
            except OSError as error:
                self.refused.append(MachineError(f"it cannot be read: {error}", place=str(path)))
            else:
                self._whole = {path.name: best}
                return path.name, facts
        return None

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a checkpoint that `find` gave."""
        from safetensors.torch import load_file

        return load_file(self.folder / name / "state.safetensors")

    def newest(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and facts of what `find` finds."""
        found = self.find()
        return None if found is None else (self.read(found[0]), found[1])

    def best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights that were best at `step`; raises IntegrityError when they are not what was saved."""
        name = f"best-{step:08d}"
        try:
            verify(self.folder / name)
        except IntegrityError as error:
            raise IntegrityError(
                f"the best weights are damaged: {error.what}", place=error.place, fix="run the same command again: it goes on from the newest checkpoint that is whole, else from the beginning"
            ) from error
        return self.read(name)

    def _facts(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / name / "state.json").read_text()))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file straight from the tensors' memory and fsync it on the descriptor that wrote it.

    The library's own writer hides which error the disk gave, and syncs nothing. Format: 8 bytes little-endian length of the header, the
    header as JSON (dtype, shape, data_offsets per tensor) padded with spaces to a multiple of 8, the data; wide types first, so that each
    tensor is aligned.
    """
    import torch

    names = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    header: dict[str, Any] = {}
    end = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in names:
            raise PlugError(f"tensor '{name}' of the learner's state is {tensor.dtype}, which a checkpoint cannot hold", place="method", fix="give one of: " + ", ".join(str(kind) for kind in names))
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            if tensors[name].numel():
                stream.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
