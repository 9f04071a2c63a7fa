"""SIGKILL a run at random moments, start it again, and compare the tuned model with that of an undisturbed run, bit by bit.

    python benchmarks/kill_resume.py [--kills 10] [--seed 7] [--method full]

The run is `attune run --until finetune` on the shipped support tickets with the real MiniLM base. Each kill hits the whole process group at a
moment drawn uniformly over the duration of the undisturbed run; the same command is then given again and must finish. A run that a kill
missed (it ended before) is counted apart and drawn again. The must-fail twin flips one bit of a weight and has to be noticed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, write


def command(workspace: Path, method: str) -> list[str]:
    recipe = ROOT / "src" / "attune" / "recipes" / "support_tickets" / "recipe.yaml"
    settings = [f"method={method}", "train.epochs=2", "train.checkpoint_every=5", "train.max_length=48"]
    return [sys.executable, "-m", "attune", "run", str(recipe), "--until", "finetune", "--workspace", str(workspace), "--quiet", *[word for s in settings for word in ("--set", s)]]


def bundle_digest(workspace: Path) -> tuple[str, list[dict[str, float]]]:
    """Store key (a digest of every byte of the bundle) and the learning curve of the only checkpoint record."""
    from attune.core.records import Checkpoint
    from attune.core.workspace import Workspace

    opened = Workspace(workspace)
    (checkpoint,) = opened.ledger.find(Checkpoint)
    opened.store.path(checkpoint.store_key)
    opened.close()
    return checkpoint.store_key, list(checkpoint.curve)


def finish(workspace: Path, method: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command(workspace, method), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.perf_counter() - begin


def killed(workspace: Path, method: str, after: float) -> bool:
    """Start a run and SIGKILL its process group `after` seconds later; False when it had ended by itself."""
    child = subprocess.Popen(command(workspace, method), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        child.wait(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return True


def flipped_bit_is_noticed(workspace: Path, key: str) -> bool:
    from attune.core.store import Store

    weights = next((workspace / "store" / key).rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return not Store(workspace / "store").has(key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--method", default="full")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="attune-kill-"))
    try:
        finish(root / "warm", options.method)
        seconds = finish(root / "whole", options.method)
        expected, curve = bundle_digest(root / "whole")
        moments, identical, missed = [], 0, 0
        while len(moments) < options.kills:
            workspace = root / f"kill-{len(moments)}-{missed}"
            after = draw.uniform(0.02, 0.98) * seconds
            if not killed(workspace, options.method, after):
                missed += 1
                if missed > 3 * options.kills:
                    raise RuntimeError("the run ends before the kills: the machine's speed changed too much")
                continue
            finish(workspace, options.method)
            same = bundle_digest(workspace) == (expected, curve)
            identical += same
            moments.append({"after_seconds": round(after, 2), "share_of_run": round(after / seconds, 3), "identical": same})
            print(moments[-1], flush=True)
            shutil.rmtree(workspace)
        write(
            options.out,
            "kill_resume",
            {
                "n": options.kills,
                "identical": identical,
                "failures": options.kills - identical,
                "missed": missed,
                "seed": options.seed,
                "method": options.method,
                "seconds_undisturbed": round(seconds, 1),
                "kills": moments,
                "must_fail_twin_noticed": flipped_bit_is_noticed(root / "whole", expected),
            },
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
