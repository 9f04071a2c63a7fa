"""What a stranger meets: a fresh clone in a new folder with an empty pip cache, then `make demo` and `make test`, timed.

python benchmarks/first_run.py [--skip-test]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from common import ROOT, write


def timed(*command: str, folder: Path, log: Path) -> float:
    """Seconds that a command takes; raises with the end of its output when it fails."""
    environment = {**os.environ, "PIP_NO_CACHE_DIR": "1"}
    environment.pop("VIRTUAL_ENV", None)
    begin = time.perf_counter()
    with log.open("w") as stream:
        done = subprocess.run(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-4000:]}")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-test", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep the clone here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp(prefix="attune-first-"))
    clone, log = root / "attune", root / "log.txt"
    try:
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        rows = [["`make setup`: environment and locked packages, no cache", f"{timed('make', 'setup', folder=clone, log=log):.0f} s", "done"]]
        seconds = timed("make", "demo", folder=clone, log=log)
        said = re.search(r"\b(SHIP|NO-SHIP|INCONCLUSIVE)\b", log.read_text())
        rows.append(["`make demo` after that: the whole cycle to a verdict and a report", f"{seconds:.0f} s", said.group(1) if said else "no verdict"])
        again = timed("make", "demo", folder=clone, log=log)
        rows.append(["`make demo` again: nothing has changed", f"{again:.0f} s", "unchanged"])
        if not options.skip_test:
            seconds = timed("make", "test", folder=clone, log=log)
            closing = [line for line in log.read_text().splitlines() if " passed" in line][-1].strip("= ")
            rows.append(["`make test`", f"{seconds:.0f} s", closing])
        title = "From a fresh clone"
        write(options.out, "first_run", {"title": title, "command": "python benchmarks/first_run.py", "columns": ["step", "wall time", "result"], "rows": rows, "n": 1})
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
