"""Write a plain transformers (or PEFT) folder with a short predict.py: loads without Attune and gives the same answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.catalog.exports._speaking import FACTS, base_beside, card_beside
from attune.core.adapters import merged, write_peft
from attune.core.contracts import Export, Prediction, Row
from attune.core.conversation import stop_ids, template_of
from attune.core.errors import IntegrityError, PlugError
from attune.core.keys import Keys, key
from attune.core.models import save_head
from attune.core.specialist import Specialist

SCRIPT = Path(__file__).with_name("_transformers_predict.py")
WITHOUT_ATTUNE = "import runpy, sys; sys.modules['attune'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script in a Python where `import attune` fails."""
KINDS = {"label-out": "classification", "text-out": "generation", "vector-out": "vectors", "score-out": "score"}
"""Trait of the task -> what predict.py does."""
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "HF_HOME", "HF_HUB_CACHE", "OMP_NUM_THREADS", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
TIME_LIMIT = 1800
"""Seconds that the golden rows may take."""


class TransformersKeys(Keys):
    """Keys of the export."""

    merge: bool = key(False, "add an adapter's update to the base's weights and write one whole model")


class Transformers(Export):
    """A folder for people who use transformers and PEFT directly."""

    keys_type = TransformersKeys
    requires = frozenset({"torch", "text-in"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """Body or adapter, head, tokenizer, the facts that answering needs, predict.py and the card."""
        model = specialist.model
        body = model.body
        adapted = hasattr(body, "peft_config")
        if self.keys.merge and not adapted:
            raise PlugError("there is no adapter to merge", place="exports.transformers.merge", fix="leave `merge` out: this method writes a whole model anyway")
        beside = adapted and not self.keys.merge and model.frozen_as is None  # an adapter of a 4-bit base answers otherwise on the whole one
        if beside:
            base_beside(specialist, folder)
        else:
            body = merged(specialist)
        self._describe(specialist, body)
        if beside:
            write_peft(body, folder)
        else:
            body.save_pretrained(folder)
        save_head(model, folder)
        specialist.tokenizer.save_pretrained(folder)
        (folder / FACTS).write_text(json.dumps(self._facts(specialist, beside), indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        shutil.copyfile(SCRIPT, folder / "predict.py")
        card_beside(bundle, folder)

    def _describe(self, specialist: Specialist, body: Any) -> None:
        labels = specialist.signature.get("labels")
        if labels:
            body.config.id2label = dict(enumerate(labels))
            body.config.label2id = {label: i for i, label in enumerate(labels)}
            body.config.problem_type = "multi_label_classification" if specialist.signature.get("multi_label") else "single_label_classification"

    def _facts(self, specialist: Specialist, adapter: bool) -> dict[str, Any]:
        task = specialist.task
        kinds = [kind for trait, kind in KINDS.items() if trait in task.traits]
        if len(kinds) != 1:
            raise PlugError(f"task '{task.name}' answers with neither labels, text, a vector nor a score", place="exports.transformers", fix=f"it would need one of the traits {', '.join(KINDS)}")
        templated = kinds[0] == "generation" or (kinds[0] == "score" and specialist.model.pooling == "last")
        speaks = {"chat_template": template_of(specialist), "stop_ids": stop_ids(specialist)} if templated else {}
        return {
            **speaks,
            "kind": kinds[0],
            "adapter": adapter,
            "inputs": [role.name for role in task.roles if not role.target and role.required],
            "optional": [role.name for role in task.roles if not role.target and not role.required],
            "signature": specialist.signature,
            "task": task.keys.model_dump(mode="json"),
            "max_length": specialist.max_length,
            "pooling": specialist.model.pooling,
        }

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Ask predict.py in a process of its own that cannot import Attune and may not reach the network."""
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        known = {*facts["inputs"], *facts["optional"]}
        lines = "".join(json.dumps({k: v for k, v in row.items() if k in known}, ensure_ascii=False) + "\n" for row in rows)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
        try:
            ran = subprocess.run([sys.executable, "-c", WITHOUT_ATTUNE, "predict.py"], input=lines, capture_output=True, encoding="utf-8", cwd=folder, env=environment, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired as error:
            raise IntegrityError(f"predict.py did not answer {len(rows)} rows in {TIME_LIMIT} s", place=str(folder), fix="run it by hand to see why") from error
        if ran.returncode != 0:
            raise IntegrityError(f"predict.py ended with {ran.returncode}: {ran.stderr.strip()[-800:]}", place=str(folder), fix="the exported folder cannot be used as it is")
        answers = [json.loads(line) for line in ran.stdout.splitlines() if line.strip()]
        return [Prediction(one["output"], one.get("probabilities") or {}, one.get("confidence")) for one in answers]
