"""What `doctor` looks at: each look gives findings with the way out; none of them changes anything."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attune.cli.screen import Screen
from attune.core.errors import AttuneError

LOW_DISK = 2 * 1024**3
LOW_MEMORY = 2 * 1024**3
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages that break others when they were built for another torch."""
NAMED = 8
"""Deviations from the lock that are named one by one."""


@dataclass
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """ok, note (worth knowing) or fault (something will fail)."""
    found: str
    fix: str = ""


def examine(screen: Screen, recipe: str | None, lock: Path | None, head: str | None = None) -> list[Finding]:
    """Look at everything; a look that itself fails is a fault, not the end."""
    looks = (_python, _packages, lambda: _lock(lock), _companions, _torch, _offline, lambda: _room(screen), lambda: _base(screen, recipe), _plugs, lambda: _workspace(screen, head))
    found: list[Finding] = []
    for look in looks:
        try:
            found += look()
        except AttuneError as error:
            found.append(Finding(error.place or "machine", "fault", error.what, error.fix or ""))
    return found


def _python() -> Iterator[Finding]:
    from attune import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    fit = sys.version_info >= (3, 11)
    yield Finding("attune", "ok", f"{__version__} in {Path(__file__).resolve().parents[1]}")
    yield Finding("python", "ok" if fit else "fault", version, "" if fit else "install Python 3.11 or newer")


def _installed() -> dict[str, str]:
    from packaging.utils import canonicalize_name

    return {canonicalize_name(dist.name): dist.version for dist in metadata.distributions() if dist.name}


def unmet(installed: dict[str, str], start: str = "attune") -> Iterator[tuple[str, str, str, str | None]]:
    """(package, its version, what it needs, what is there) for every unmet requirement in the closure of `start`, extras left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    seen, queue = set(), [start]
    while queue:
        name = canonicalize_name(queue.pop(0))
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in needs:
            need = Requirement(line)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            there = installed.get(other)
            if there is None or not need.specifier.contains(there, prereleases=True):
                yield name, installed.get(name, "?"), f"{need.name}{need.specifier}", there
            if there is not None:
                queue.append(other)


def _packages() -> Iterator[Finding]:
    wrong = list(unmet(_installed()))
    faults = [one for one in wrong if one[0] == "attune" or one[3] is not None]
    for name, version, need, there in faults:
        yield Finding("packages", "fault", f"{name} {version} needs {need}; installed: {there or 'nothing'}", f"pip install '{need}'")
    if not faults:
        yield Finding("packages", "ok", "no two packages contradict each other")
    left_out = sorted({f"{need} (for {name})" for name, _, need, there in wrong if there is None and name != "attune"})
    if left_out:
        yield Finding("packages", "ok", f"not installed, and not needed here: {', '.join(left_out[:NAMED])}" + (f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""))


def find_lock() -> Path | None:
    """The lock in the working directory, or beside the source tree that runs."""
    places = (Path.cwd(), Path(__file__).resolve().parents[3])
    return next((place / "requirements.lock" for place in places if (place / "requirements.lock").is_file()), None)


def _lock(given: Path | None) -> Iterator[Finding]:
    from packaging.utils import canonicalize_name

    lock = given or find_lock()
    if lock is None:
        yield Finding("lock", "note", "no requirements.lock here", "name it with --lock FILE to compare the versions")
        return
    if not lock.is_file():
        yield Finding("lock", "fault", f"there is no file '{lock}'", "give the path of a lock")
        return
    installed = _installed()
    pins = [line.split("#")[0].split(";")[0].strip().partition("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line.split("#")[0]]
    other = []
    for name, _, version in pins:
        there = installed.get(canonicalize_name(name.split("[")[0].strip()))
        if there is None or there.split("+")[0] != version.strip().split("+")[0].rstrip("\\ "):
            other.append(f"{name} {there or 'missing'} instead of {version.strip()}")
    if other:
        more = f" and {len(other) - NAMED} more" if len(other) > NAMED else ""
        yield Finding("lock", "note", f"{len(other)} of {len(pins)} packages differ from {lock.name}: {', '.join(other[:NAMED])}{more}", f"pip install -r {lock} makes the tested set")
    else:
        yield Finding("lock", "ok", f"all {len(pins)} packages are as in {lock.name}")


def _companions() -> Iterator[Finding]:
    """A torch companion that cannot be imported takes transformers' imports down with it."""
    installed = _installed()
    present = [name for name in COMPANIONS if name in installed]
    for name in present:
        tried = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120, check=False)
        if tried.returncode == 0:
            yield Finding(name, "ok", f"{installed[name]} goes with torch {installed.get('torch', '?')}")
        else:
            last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
            yield Finding(
                name,
                "fault",
                f"{name} {installed[name]} and torch {installed.get('torch', '?')} do not go together: {last[:160]}",
                f"pip uninstall {name} (Attune does not need it), or install the build for this torch",
            )
    if not present:
        yield Finding("torch companions", "ok", "none installed, none needed")


def _torch() -> Iterator[Finding]:
    import torch

    from attune.stages.finetune.plan import choose_precision

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    yield Finding("torch", "ok", f"{torch.__version__}, {threads} threads on {cores} cores")
    if threads > cores:
        yield Finding("threads", "note", f"{threads} threads on {cores} cores get in each other's way", f"set OMP_NUM_THREADS={cores}")
    precision, why = choose_precision("auto")
    yield Finding("precision", "ok", f"{precision}: {why}")
    if torch.cuda.is_available():
        yield Finding("graphics card", "note", f"{torch.cuda.get_device_name(0)}: training works on the processor", "only `serve.engine: vllm` uses a graphics card")


def _offline() -> Iterator[Finding]:
    from attune.core.offline import SWITCHES, online_allowed

    off = [name for name, value in SWITCHES.items() if os.environ.get(name) != value]
    if online_allowed():
        yield Finding("offline", "note", "ATTUNE_ONLINE=1: the hub may be called", "unset ATTUNE_ONLINE once the base model is here")
    elif off:
        yield Finding("offline", "fault", f"switched otherwise: {', '.join(off)}", "something changed the environment after Attune started")
    else:
        yield Finding("offline", "ok", f"{len(SWITCHES)} switches keep packages from calling out")


def _room(screen: Screen) -> Iterator[Finding]:
    root = screen.root
    place = next(one for one in (root, *root.resolve().parents) if one.exists())
    free = shutil.disk_usage(place).free
    yield Finding("disk", "ok" if free > LOW_DISK else "note", f"{free / 1024**3:.1f} GiB free at {place}", "" if free > LOW_DISK else "free some: checkpoints and bundles need room")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return
    yield Finding("memory", "ok" if memory > LOW_MEMORY else "note", f"{memory / 1024**3:.1f} GiB", "" if memory > LOW_MEMORY else "keep train.micro_batch_size small")


def _base(screen: Screen, path: str | None) -> Iterator[Finding]:
    from attune.core.models import resolve_base
    from attune.core.recipe import DEFAULT_BASE

    recipe = screen.recipe(path) if path else None
    reference = recipe.keys.base_model if recipe else DEFAULT_BASE
    base = resolve_base(reference, recipe.keys.revision if recipe else None, recipe.folder if recipe else None)
    yield Finding("base model", "ok", f"{reference}, sha256 {base.identity['digest'][:16]}… over {len(base.files)} files" + (f" in {base.folder}" if base.files else ""))


def _plugs() -> Iterator[Finding]:
    from attune.core import catalog

    entries, broken = catalog.entries(), []
    for entry in entries:
        try:
            catalog.load(entry.kind, entry.name)
        except AttuneError as error:
            broken.append(entry)
            yield Finding("plug", "fault", error.what, error.fix or "")
    foreign = sorted({entry.origin for entry in entries} - {"attune"})
    yield Finding("plugs", "ok", f"{len(entries) - len(broken)} of {len(entries)} load" + (f"; others from {', '.join(foreign)}" if foreign else ""))


def _cache(folder: Path) -> Finding:
    from attune.stages.finetune.cache import Cache, size_of

    size, number = size_of(folder)
    what = f"{size / 1e9:.2g} GB of answers of frozen layers in {number} folder{'s' if number != 1 else ''}" if number else "empty"
    return Finding("cache", "ok", f"{what}; kept up to {Cache(folder).limit / 1e9:.2g} GB where train.cache_gb says nothing else; {folder} may be deleted while nothing runs")


def _workspace(screen: Screen, head: str | None) -> Iterator[Finding]:
    from attune.core.events import Events
    from attune.core.examination import examine as examine_workspace

    root: Any = screen.root
    if root.exists() and not root.is_dir():
        yield Finding("workspace", "fault", f"{root} is a file", "name a folder: --workspace FOLDER")
        return
    if not root.is_dir():
        if head is not None:
            yield Finding("audit log", "fault", f"there is no workspace at {root} that could hold the noted head", "name it: --workspace FOLDER")
        yield Finding("workspace", "note", f"none yet at {root}", "`attune run` makes it; another one: --workspace FOLDER")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".tmp-doctor-"):
            pass
        yield Finding("workspace", "ok", f"{root.resolve()} can be written")
    except OSError as error:
        yield Finding("workspace", "fault", f"{root}: {error.strerror}", "mend the permissions, or use another one: --workspace FOLDER")
        return
    yield _cache(root / "cache")
    workspace = screen.workspace(create=False)
    for look in examine_workspace(workspace, Events(None, (screen.hear,)), head):
        screen.end_live()
        if not look.faults and not look.notes:
            yield Finding(look.name, "ok", look.said)
        for state, found in (("fault", look.faults), ("note", look.notes)):
            shown = found if len(found) <= NAMED else (*found[:NAMED], f"and {len(found) - NAMED} more")
            for number, text in enumerate(shown, start=1):
                yield Finding(look.name, state, text, look.fix if number == len(shown) else "")
