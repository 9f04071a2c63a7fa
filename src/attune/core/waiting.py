"""How threads wait for each other between two products: spinning costs nothing on a quiet machine and everything on a busy one.

Set before torch is imported, because the threads' library reads it once. Measured (lab/LOG.md): a training step of MiniLM took 142 ms with
spinning threads and 168 with threads that sleep after a thousand turns when the machine was quiet, and 755 against 369 beside two other jobs.
"""

from __future__ import annotations

import os
from pathlib import Path

TURNS = "1000"
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LOAD = Path("/proc/loadavg")


def apply() -> None:
    """Let waiting threads sleep soon, unless nothing else computes at this moment or the user has said how they wait."""
    if not any(name in os.environ for name in VARIABLES) and not quiet():
        os.environ["GOMP_SPINCOUNT"] = TURNS


def quiet() -> bool:
    """True when other programs use less than half of the processor's cores right now; False where that cannot be known."""
    try:
        running = int(LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return 2 * (running - 1) < (os.cpu_count() or 1)


def words() -> str:
    """How they wait, for a run's record."""
    said = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return ", ".join(said) if said else "they spin while they wait: the machine was quiet"
