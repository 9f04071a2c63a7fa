"""How long the command line takes to start, and what it imports to do so.

python benchmarks/startup.py [--n 11]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import write

HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "sqlalchemy", "fastapi")
SHOW = "import sys; from attune.cli import main\nsys.argv = ['attune', *{words!r}]\ntry: main()\nexcept SystemExit: pass\nprint('LOADED', *sorted(m for m in sys.modules if m in {heavy!r} or m.startswith('attune.catalog.') and m.count('.') > 2))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=11)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for words in (["--help"], ["list"]):
        took = []
        for _ in range(options.n):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", "attune", *words], capture_output=True, check=True)
            took.append(time.perf_counter() - begin)
        shown = subprocess.run([sys.executable, "-c", SHOW.format(words=words, heavy=HEAVY)], capture_output=True, text=True, check=True).stdout
        loaded = shown.splitlines()[-1].removeprefix("LOADED").split()
        rows.append([f"`attune {' '.join(words)}`", f"{statistics.median(took):.2f} s", f"{min(took):.2f}-{max(took):.2f} s", ", ".join(loaded) or "none"])
    columns = ["command", f"median of {options.n}", "range", "heavy packages and plugs imported"]
    write(options.out, "startup", {"title": "Start of the command line", "command": "python benchmarks/startup.py", "columns": columns, "rows": rows, "n": options.n})


if __name__ == "__main__":
    main()
