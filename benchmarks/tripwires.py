"""Planted faults that end in silence elsewhere: how many Attune notices before step 10, how many clean recipes it leaves alone, and what plain TRL does
with the same faults.

    python benchmarks/tripwires.py --shared ../shared [--trl]

FOLDER holds TRL 1.16.0 and datasets (pip install --no-deps --target FOLDER ...); without it the column of TRL stays empty.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import common

from attune.core.errors import AttuneError
from attune.core.events import Events
from attune.core.workspace import Workspace
from attune.stages import curate, finetune
from attune.testing.faults import CLEAN, FAULTS, Fault, World, answer, question, real_clean
from attune.testing.row_faults import ROW_FAULTS, set_aside

SEEN = 10
"""Steps before which a fault has to be noticed."""
EVERY = (*FAULTS, *ROW_FAULTS)
WORDS = {"refused": "**refused**", "set aside": "**rows set aside**", "silent": "silent", "warned": "warns", "error": "**error**", "": "cannot be given"}


def attune_says(world: World) -> dict[str, Any]:
    """What becomes of a world: outcome (refused, set aside, silent), the words, and the steps that were made."""
    steps = 0

    def listen(event: dict[str, Any]) -> None:
        nonlocal steps
        if event["kind"] == "progress" and event["message"] == "train":
            steps = event["done"]

    events = Events(listeners=[listen])
    try:
        recipe = world.made()
        workspace = Workspace(world.folder / "workspace")
        dataset = curate.run(recipe, workspace, events)
        if world.planted and dataset.counts["quarantined"] == world.planted:
            return {"outcome": "set aside", "said": f"{world.planted} of {dataset.counts['read']} rows", "steps": 0}
        finetune.run(recipe, workspace, dataset, events, run="run")
        gone = set_aside(workspace.run_folder("run"))
        if gone and set(gone) <= world.bad:
            return {"outcome": "set aside", "said": f"{len(gone)} training and validation rows", "steps": 0}
    except AttuneError as error:
        return {"outcome": "refused", "said": str(error).splitlines()[0], "steps": steps, "exit_code": error.exit_code}
    return {"outcome": "silent", "said": "", "steps": steps}


def world_of(plant: Any, folder: Path, shared: Path | None) -> World:
    world = World(folder, shared)
    plant(world)
    return world


# ---------------------------------------------------------------- TRL, in a process of its own


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row in the shape that TRL's SFTTrainer reads, with the fault in it."""
    if "messages" in row or row["prompt"].startswith("Once upon"):  # the base with real weights has no chat template
        return row
    more = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
    return {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}], **more}


class Heard(logging.Handler):
    """Log lines of level warning and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def trl_says(name: str, world: World) -> dict[str, Any]:
    """Ten steps with TRL: outcome (error, warned, silent) and what it said; warnings are compared with a clean run's by the caller."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    world.made()
    base = str(world.folder / "base")
    train, method = world.recipe.get("train", {}), world.recipe.get("method", "lora")
    keys = method if isinstance(method, dict) else {"name": method}
    common_options = {
        "output_dir": str(world.folder / "trl"),
        "max_steps": SEEN,
        "per_device_train_batch_size": 6,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": train.get("learning_rate", 1e-3),
        "disable_tqdm": True,
    }
    adapter = LoraConfig(r=16, lora_alpha=keys.get("alpha", 32), target_modules="all-linear", task_type="CAUSAL_LM") if keys["name"] == "lora" else None
    heard = Heard()
    loggers = [logging.getLogger(one) for one in ("", "transformers", "trl", "datasets", "peft", "accelerate")]
    for one in loggers:
        one.addHandler(heard)
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            tokenizer = AutoTokenizer.from_pretrained(base)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            model = AutoModelForCausalLM.from_pretrained(base)
            if name in ("equal_preferences", "equal_when_read", "equal_pairs", "equal_pairs_mostly", "reference_moves"):
                rows = [
                    {"prompt": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"]} if "chosen" in r else {"prompt": question(i), "chosen": answer(i), "rejected": "No."}
                    for i, r in enumerate(world.rows)
                ]
                more = {"ref_model": model} if name == "reference_moves" else {"peft_config": adapter}
                trainer = DPOTrainer(model=model, args=DPOConfig(max_length=160, **common_options), processing_class=tokenizer, train_dataset=Dataset.from_list(rows), **more)
            elif name == "one_kind_of_label":
                from trl.experimental.kto import KTOConfig, KTOTrainer

                trainer = KTOTrainer(model=model, args=KTOConfig(max_length=160, **common_options), processing_class=tokenizer, train_dataset=Dataset.from_list(world.rows), peft_config=adapter)
            elif name == "flat_reward":
                rows = [{"prompt": question(i)} for i in range(24)]
                options = {**common_options, "num_generations": 3, "max_completion_length": 8, "max_steps": 4}
                trainer = GRPOTrainer(
                    model=model,
                    args=GRPOConfig(**options),
                    processing_class=tokenizer,
                    train_dataset=Dataset.from_list(rows),
                    reward_funcs=lambda completions, **_: [float("answer:" in str(one)) for one in completions],
                )
            else:
                options = {**common_options, "max_length": train.get("max_length", 160)}
                trainer = SFTTrainer(model=model, args=SFTConfig(**options), processing_class=tokenizer, train_dataset=Dataset.from_list([as_messages(r) for r in world.rows]), peft_config=adapter)
            trainer.train()
            losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
            found = {"outcome": "silent", "said": "", "losses": [losses[0], losses[-1]] if losses else []}
        except Exception as error:
            found = {"outcome": "error", "said": f"{type(error).__name__}: {error}"[:300], "trace": traceback.format_exc()[-1500:]}
    for one in loggers:
        one.removeHandler(heard)
    found["warnings"] = [*heard.lines, *(str(one.message) for one in told if not issubclass(one.category, (DeprecationWarning, FutureWarning, ResourceWarning)))]
    return found


def trl_process(shared: Path | None, out: Path) -> None:
    """Every fault that TRL can be given, after one clean run whose warnings are nobody's."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        (Path(room) / "clean").mkdir()
        clean = trl_says("clean", World(Path(room) / "clean", shared))
        usual = {one[:50] for one in clean["warnings"]}
        found["clean"] = clean
        for fault in EVERY:
            if not fault.trl or (fault.name == "other_tokenizer" and shared is None):
                continue
            folder = Path(room) / fault.name
            folder.mkdir()
            one = trl_says(fault.name, world_of(fault.plant, folder, shared))
            one["warnings"] = sorted({line[:300] for line in one["warnings"] if line[:50] not in usual})
            if one["outcome"] == "silent" and one["warnings"]:
                one |= {"outcome": "warned", "said": one["warnings"][0]}
            found[fault.name] = one
            out.write_text(json.dumps(found, indent=1))


def with_trl(shared: Path | None, keep: Path) -> dict[str, Any]:
    """`trl_process` in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, __file__, "--only-trl", str(keep), *(["--shared", str(shared)] if shared else [])]
    subprocess.run(words, env=environment, check=True)
    found: dict[str, Any] = json.loads(keep.read_text())
    return found


def plain(said: str, room: str) -> str:
    """A message on one line, without colours and this machine's folders."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|" + re.escape(room) + r"/\S*/|/\S*?/tmp\w+/\S*/|/tmp/tmp\w+/\S*/", "", said).split())[:300]


NOTES = [
    "Faults and tripwires were written by the same hands, so the count of noticed faults says that nothing is broken, not how many faults of the world are seen. "
    "TRL: the same base, rows and settings through its trainer (SFT, DPO, KTO or GRPO), 10 steps (GRPO 4); 'silent' means no error and no warning that a clean run does not give too. "
    "Some of these faults do harm only later (two templates, a missing generation prompt), and flags of single turns are another tool's, which TRL does not promise to read.",
]


def row_of(fault: Fault, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    noticed = ours["outcome"] != "silent" and ours["steps"] < SEEN
    by = fault.by if noticed else "nothing"
    return [fault.what, f"{WORDS[ours['outcome']]}, before step {ours['steps'] + 1}" if noticed else "silent", by, WORDS[theirs.get("outcome", "")]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with real weights, for the fault that needs some")
    parser.add_argument("--trl", action="store_true", help="give the faults to TRL too")
    parser.add_argument("--trl-results", type=Path, help="what an earlier run of TRL found (JSON)")
    parser.add_argument("--only-trl", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.only_trl:
        trl_process(arguments.shared, arguments.only_trl)
        return
    rows, noticed, details = [], 0, {}
    with tempfile.TemporaryDirectory() as room:
        theirs = json.loads(arguments.trl_results.read_text()) if arguments.trl_results else with_trl(arguments.shared, Path(room) / "trl.json") if arguments.trl else {}
        for fault in EVERY:
            if fault.name == "other_tokenizer" and arguments.shared is None:
                continue
            folder = Path(room) / fault.name
            folder.mkdir()
            ours = attune_says(world_of(fault.plant, folder, arguments.shared))
            noticed += ours["outcome"] != "silent" and ours["steps"] < SEEN
            other = theirs.get(fault.name, {})
            details[fault.name] = {"attune": {**ours, "said": plain(ours["said"], room)}, "trl": {"outcome": other["outcome"], "said": plain(other["said"], room)} if other else {}}
            rows.append(row_of(fault, ours, theirs.get(fault.name, {})))
            print(fault.name, ours["outcome"], ours["said"][:100], flush=True)
        clean = {**CLEAN, **({"real weights": real_clean} if arguments.shared else {})}
        false_alarms = []
        for number, (name, plant) in enumerate(clean.items()):
            folder = Path(room) / f"clean-{number}"
            folder.mkdir()
            said = attune_says(world_of(plant, folder, arguments.shared))
            if said["outcome"] != "silent" or said["steps"] < SEEN:
                false_alarms.append([name, said["said"]])
            print("clean", name, said["outcome"], said["steps"], flush=True)
    given = [one for name, one in theirs.items() if name != "clean"]
    stopped, warned = sum(one["outcome"] == "error" for one in given), sum(one["outcome"] == "warned" for one in given)
    rows.append([f"**noticed, of {len(rows)}**", f"**{noticed}**", "", f"{stopped} errors and {warned} warnings, of {len(given)} that it can be given" if given else "not run"])
    rows.append([f"**false alarms on {len(clean)} clean recipes**", f"**{len(false_alarms)}**", "", ""])
    common.write(
        arguments.out,
        "tripwires",
        {
            "title": "Planted faults: what ends in silence",
            "command": "python benchmarks/tripwires.py --shared ../shared --trl",
            "columns": ["planted fault", "Attune", "noticed by", "TRL 1.16.0, its defaults, 10 steps"],
            "rows": rows,
            "n": len(rows) - 2,
            "notes": NOTES,
            "noticed": noticed,
            "clean": len(clean),
            "false_alarms": false_alarms,
            "details": details,
        },
    )


if __name__ == "__main__":
    main()
