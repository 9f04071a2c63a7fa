"""The same kills on Hugging Face's Trainer: checkpoints at every step, two kept, `resume_from_checkpoint=True` as its documentation has it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from fault.ground import INTENTS, LIMIT, Child, Ground, Tell

LAST_FILE = "trainer_state.json"
"""Written at the end of a save."""


def warm() -> None:
    """Import what a Trainer run imports."""
    import accelerate  # noqa: F401
    import transformers.trainer  # noqa: F401


def run(ground: Ground, folder: Path) -> Child:
    """Start, or go on with, a Trainer run in a child; it tells a digest of its final weights."""

    def work(tell: Tell) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
        from transformers.trainer_utils import get_last_checkpoint

        tokenizer = AutoTokenizer.from_pretrained(ground.root / "base", local_files_only=True)
        texts = [(f"{text} {extra}", i) for i, label in enumerate(sorted(INTENTS)) for text in INTENTS[label] for extra in ("now", "please")]
        encoded = tokenizer([text for text, _ in texts], truncation=True, max_length=32)["input_ids"]
        rows = [{"input_ids": ids, "labels": label} for ids, (_, label) in zip(encoded, texts, strict=True)]
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(ground.root / "base", num_labels=len(INTENTS), local_files_only=True)
        settings: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "seed": 7}
        arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=1000, **settings)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        tell({"kind": "ready"})
        trainer.train(resume_from_checkpoint=True if folder.is_dir() and get_last_checkpoint(str(folder)) else None)
        weights = hashlib.sha256()
        for name, tensor in sorted(trainer.model.state_dict().items()):
            weights.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        tell({"kind": "done", "weights": weights.hexdigest(), "steps": trainer.state.global_step})

    return Child(work)


def finished(child: Child, folder: Path) -> tuple[Any, str]:
    """Digest and steps of a run that ended well, else None and why."""
    code = child.end()
    done = child.said("done")
    if code or not done:
        last = child.said("crash")[-1:] or [{"message": f"it ended with {code}"}]
        return None, last[0]["message"].strip().splitlines()[-1].replace(str(folder), "RUN")[:300]
    return (done[0]["weights"], done[0]["steps"]), ""


def folders(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if name.startswith(("checkpoint-", "tmp-checkpoint-"))}
    except FileNotFoundError:
        return set()


def reference(ground: Ground) -> dict[str, Any]:
    outcomes, starts = [], []
    for name in ("peer-warm", "peer-whole"):
        folder, seen, began = ground.root / name, set[str](), time.perf_counter()
        child, starts = run(ground, folder), []
        while child.alive():
            if folders(folder) - seen:
                seen |= folders(folder)
                starts.append(time.perf_counter())
            child.listen(0.0003)
        outcomes.append(finished(child, folder)[0])
        seconds = time.perf_counter() - began
        shutil.rmtree(folder)
    if outcomes[0] is None or outcomes[0] != outcomes[1]:
        raise RuntimeError(f"the Trainer's undisturbed runs do not agree: {outcomes}")
    return {"outcome": outcomes[0], "seconds": seconds, "saves": len(starts), "save": 0.6 * (starts[-1] - starts[0]) / (len(starts) - 1)}


def trial(ground: Ground, name: str, known: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Kill, most of the time inside a save; go on; compare."""
    folder, aimed = ground.root / name, draw.random() < 0.8
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        child = run(ground, folder)
        if aimed:
            number, deadline = draw.randint(1, known["saves"]), time.monotonic() + LIMIT
            while child.alive() and len(folders(folder)) < min(number, 2) and time.monotonic() < deadline:
                child.listen(0.0003)
            seen, count = folders(folder), len(folders(folder))
            while child.alive() and count < number and time.monotonic() < deadline:
                count += len(folders(folder) - seen)
                seen |= folders(folder)
                child.listen(0.0003)
            time.sleep(draw.uniform(0, known["save"]))
        else:
            time.sleep(draw.uniform(0.05, 0.95) * known["seconds"])
        if child.kill():
            break
    inside = any(not (folder / one / LAST_FILE).is_file() for one in folders(folder))
    outcome, why = finished(run(ground, folder), folder)
    same = outcome == known["outcome"]
    shutil.rmtree(folder, ignore_errors=True)
    return {"in_save": inside, "identical": same, **({} if same else {"why": why or "it ended with other weights"})}
