"""Kill runs, fill their disk, flip their bits, cut their power; count how often something is lost.

    python benchmarks/faults.py kill    [--n 200] [--seed 7]   SIGKILL; --peer trainer: the same on Hugging Face's Trainer
    python benchmarks/faults.py disk    [--n 0]                ENOSPC and EIO at every write-like call; 0: every call
    python benchmarks/faults.py small_disk [--n 20]            a real small disk, filled while a run saves
    python benchmarks/faults.py bitflip [--n 1000]
    python benchmarks/faults.py torn    [--n 100]

Each goes on where it stood when it is started again with the same seed (--fresh: from the beginning), and runs planted faults of its own
that it has to catch. disk and torn need Linux and a C compiler, small_disk Linux and root. See `fault/ground.py` for what is run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, write
from fault import bitflip, disk, kill, peer, shim, small_disk, torn, twins
from fault.ground import Ground, ground, newest, warm

Rows = list[dict[str, Any]]


def upper(n: int, failures: int) -> float:
    """Upper end of the one-sided 95 % Clopper-Pearson interval of a failure rate."""
    from scipy.stats import beta

    return 1.0 if failures >= n else round(float(beta.ppf(0.95, failures + 1, n - failures)), 5)


class Result:
    """A result file that grows; what an interrupted harness had done is taken up again."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.out, self.seed = name, options.out or RESULTS / f"{name}.json", options.seed
        self.command = f"python benchmarks/faults.py {options.what}" + (f" --peer {options.peer}" if options.peer else "")
        self.trials: Rows = []
        self.twins: dict[str, bool] = {}
        if self.out.is_file() and not options.fresh:
            before = json.loads(self.out.read_text())
            if before["seed"] == self.seed:
                self.trials, self.twins = before["trials"], before["twins"]

    def keep(self, what: str, good: Callable[[dict[str, Any]], bool], details: dict[str, Any]) -> None:
        failures = [one for one in self.trials if not good(one)]
        n = len(self.trials)
        body = {"what": what, "n": n, "failures": len(failures), "upper95": upper(n, len(failures)), "seed": self.seed, "details": details, "failed": failures[:20]}
        write(self.out, self.name, {**body, "twins": self.twins, "command": self.command, "trials": self.trials})

    def twin(self, what: str, caught: Callable[[], bool]) -> None:
        if not self.twins.get(what):
            self.twins[what] = caught()
            print(f"planted: {what}: {'caught' if self.twins[what] else 'NOT CAUGHT'}", flush=True)


def _kill(options: argparse.Namespace) -> None:
    if options.peer == "trainer":
        _kill_peer(options)
        return
    result = Result("faults_kill", options)

    def good(one: dict[str, Any]) -> bool:
        return bool(one["identical"] and not one["acknowledged_lost"])

    def keep() -> None:
        kills = [killed for one in result.trials for killed in one["kills"]]
        details = {
            "kills": len(kills),
            "inside_a_save": sum(one["in_save"] for one in kills),
            "runs_killed_inside_a_save": sum(any(killed["in_save"] for killed in one["kills"]) for one in result.trials),
            "killed_again_while_resuming": sum(one["resuming"] for one in kills),
            "acknowledged_lost": sum(one["acknowledged_lost"] for one in result.trials),
        }
        result.keep("SIGKILL, then the same command: bit-identical weights and curve, nothing acknowledged is lost", good, details)

    with ground() as place:
        known = kill.reference(place)
        planted = (("'saved' is said before the commit", twins.hasty, ".tmp-"), ("checkpoints written in their place, chosen by their number", twins.early, "step-"))
        for name, plant, sign in planted:
            result.twin(name, lambda plant=plant, sign=sign: any(not good(kill.trial(place, "twin", known, random.Random(f"twin/{i}"), plant, sign)) for i in range(40)))
        while len(result.trials) < options.n:
            number = len(result.trials)
            result.trials.append(kill.trial(place, f"kill-{number}", known, random.Random(f"{options.seed}/{number}")))
            if number % 20 == 19:
                keep()
    keep()


def _kill_peer(options: argparse.Namespace) -> None:
    result = Result("faults_kill_trainer", options)
    peer.warm()
    with ground() as place:
        known = peer.reference(place)
        while len(result.trials) < options.n:
            number = len(result.trials)
            result.trials.append(peer.trial(place, f"peer-{number}", known, random.Random(f"{options.seed}/{number}")))
            print(result.trials[-1], flush=True)
    details = {
        "kills": len(result.trials),
        "inside_a_save": sum(one["in_save"] for one in result.trials),
        "failed_of_those_inside_a_save": sum(one["in_save"] and not one["identical"] for one in result.trials),
        "cannot_go_on": sum(not one["identical"] and "other weights" not in one["why"] for one in result.trials),
    }
    result.keep("Hugging Face Trainer under the same kills (save_steps=1, save_total_limit=2, resume_from_checkpoint=True)", lambda one: bool(one["identical"]), details)


def _disk(options: argparse.Namespace) -> None:
    shim.preloaded(sys.argv)
    result = Result("faults_disk", options)

    def keep(calls: int) -> None:
        by = Counter(f"{one['mode']} {one['call']}" for one in result.trials)
        details = {"write_like_calls_of_the_run": calls, "points": dict(sorted(by.items())), "paused_and_went_on": sum(one.get("paused", False) for one in result.trials)}
        result.keep("ENOSPC (freed later, or never) and EIO at the k-th write-like call: last checkpoint valid, message with bytes and folder, bit-identical end", disk.good, details)

    with ground(epochs=1) as place:
        expected, calls = disk.counted(place)
        wanted = {"full": range(1, calls + 1), "broken": range(1, calls + 1, 2), "gone": range(1, calls + 1, 13)}
        plan = [(mode, k) for mode, ks in wanted.items() for k in (random.Random(options.seed).sample(list(ks), min(options.n, len(ks))) if options.n else ks)]
        done = {(one["mode"], one["k"]) for one in result.trials}

        def swallowed() -> bool:
            return any(not disk.good(disk.point(place, "twin", k, "broken", expected, twins.deaf, "S")) for k in (3, 8, 13))

        result.twin("errors of fsync are swallowed", swallowed)
        for mode, k in plan:
            if (mode, k) not in done:
                result.trials.append(disk.point(place, "disk", k, mode, expected))
                if len(result.trials) % 50 == 0:
                    keep(calls)
    keep(calls)


def _small_disk(options: argparse.Namespace) -> None:
    root = small_disk.mounted(sys.argv)
    result = Result("faults_small_disk", options)
    result.trials = []  # half a minute in all
    warm()
    place = Ground(root)
    expected = place.outcome(place.run("whole"))
    place.forget("whole")
    for number in range(options.n):
        result.trials.append(small_disk.point(place, "run", expected, random.Random(f"{options.seed}/{number}")))
    details = {"paused_and_went_on": sum(one["paused"] for one in result.trials)}
    what = "a real small disk (tmpfs) with the whole workspace, filled to the last byte while a run saves, then freed: last checkpoint valid, bit-identical end"
    result.keep(what, lambda one: one["valid"] and one["identical"], details)


def _bitflip(options: argparse.Namespace) -> None:
    result = Result("faults_bitflip", options)
    result.trials = []  # a minute in all: nothing worth going on with
    with ground(epochs=1) as place:
        expected = bitflip.prepare(place, "flip")
        top = newest(place.checkpoints("flip"))
        assert top is not None
        draw = random.Random(options.seed)
        chosen = bitflip.positions(bitflip.files(place, "flip"), options.n, draw)
        names = {path: "plan.json" if path.name == "plan.json" else f"{path.parent.name.split('-')[0]}/{path.name}" for path, _, _ in chosen}
        for path, byte, bit in chosen:
            result.trials.append({"file": names[path], "byte": byte, "bit": bit, "refused": bitflip.noticed(place, "flip", path, byte, bit, top)})
        resumed = [_resumed(place, expected, *spot) for spot in draw.sample(chosen, min(len(chosen), max(7, options.n // 25)))]

        def unseen() -> bool:
            import attune.stages.finetune.checkpoints as module

            real = module.verify
            twins.blind()
            try:
                return any(not bitflip.noticed(place, "flip", path, byte, bit, top) for path, byte, bit in draw.sample([spot for spot in chosen if "safetensors" in spot[0].name], 3))
            finally:
                module.verify = real

        result.twins = {}
        result.twin("a verifier that hashes nothing", unseen)
    details = {
        "positions": dict(Counter(one["file"] for one in result.trials)),
        "accepted": sum(not one["refused"] for one in result.trials),
        "whole_runs_resumed_on_a_flipped_bit": len(resumed),
        "of_those_told_and_bit_identical": sum(one["told"] and one["identical"] for one in resumed),
    }
    result.keep("one flipped bit in a checkpoint (weights, facts, manifest), in the best weights or in plan.json: refused, next older taken", lambda one: bool(one["refused"]), details)


def _resumed(place: Ground, expected: tuple[str, list[Any]], path: Path, byte: int, bit: int) -> dict[str, Any]:
    kept, aside = place.checkpoints("flip").parent, place.root / "aside"
    shutil.copytree(kept, aside)
    found = bitflip.resumed(place, "flip", path, byte, bit, expected)
    shutil.rmtree(kept)
    aside.rename(kept)
    return found


def _torn(options: argparse.Namespace) -> None:
    shim.preloaded(sys.argv)
    result = Result("faults_torn", options)
    result.trials = []  # seconds in all
    with ground(epochs=1) as place:
        expected = place.outcome(place.run("whole"))

        def points(n: int, planted: Any = None) -> Rows:
            ops = torn.record(place, "torn", place.root / "log", planted)
            place.forget("torn")
            (place.root / "log").unlink()
            found = []
            for number in range(n):
                draw = random.Random(f"{options.seed}/{number}")
                tree = place.root / "tree"
                found.append(torn.point(ops, draw.randint(1, len(ops)), "torn", tree, draw))
                if planted is None and number % 5 == 0:  # and the run itself goes on from what was left
                    if (tree / "torn").is_dir():
                        shutil.copytree(tree / "torn", place.checkpoints("torn").parent)
                    found[-1]["identical"], why = place.compare(place.run("torn"), expected)
                    found[-1] |= {"why": why} if why else {}
                    place.forget("torn")
                shutil.rmtree(tree)
            return found

        result.trials = points(options.n)
        result.twins = {}
        for name, planted in (("a writer that never calls fsync", twins.unsynced), ("'saved' is said before the commit", twins.hasty)):
            result.twin(name, lambda planted=planted: any(not one["valid"] for one in points(60, planted)))
    details = {
        "in_order_of_a_journal": sum(one["journal"] for one in result.trials),
        "any_order": sum(not one["journal"] for one in result.trials),
        "resumed_to_the_end": sum("identical" in one for one in result.trials),
        "bit_identical": sum(one.get("identical", False) for one in result.trials),
    }
    result.keep("power loss: unsynced data and names lost, cut or zeroed: newest acknowledged checkpoint found whole", lambda one: one["valid"] and one.get("identical", True), details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = {"kill": 200, "disk": 0, "small_disk": 20, "bitflip": 1000, "torn": 100}
    parser.add_argument("what", choices=list(default))
    parser.add_argument("--n", type=int)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--peer", choices=["trainer"])
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.n = default[options.what] if options.n is None else options.n
    {"kill": _kill, "disk": _disk, "small_disk": _small_disk, "bitflip": _bitflip, "torn": _torn}[options.what](options)


if __name__ == "__main__":
    main()
