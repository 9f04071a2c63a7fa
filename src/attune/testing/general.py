"""What every plug must do, whatever its kind."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from attune.core import catalog
from attune.core.contracts import Plug
from attune.core.keys import Keys

if TYPE_CHECKING:
    from attune.testing.suite import Subject

HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "pandas", "matplotlib", "datasets", "lightgbm")
"""Packages that take long to import; a plug imports them inside its functions."""
ROOMS = ("attune.stages", "attune.cli", "attune.studio", "attune.lifecycle", "attune.catalog", "attune.testing")
"""What a plug may not import (but its own package's private modules)."""


def check_says_what_it_is_for(subject: Subject) -> None:
    """The file opens with a sentence of purpose, and the class has a docstring."""
    purpose = subject.entry.purpose
    assert purpose.rstrip().endswith((".", "!", "?")), f"the purpose is not a sentence: {purpose!r}"
    assert 10 <= len(purpose) <= 300, f"the purpose has {len(purpose)} characters; one or two sentences are read in a list"
    plug = catalog.load(subject.kind, subject.name)
    assert plug.__doc__, f"class {plug.__name__} has no docstring"
    assert issubclass(plug, Plug)


def check_keys_are_strict_and_literal(subject: Subject) -> None:
    """The keys are a strict model whose defaults and meanings can be listed without importing the plug."""
    model = catalog.load(subject.kind, subject.name).keys_type
    assert issubclass(model, Keys), "keys_type is not a subclass of Keys"
    assert model.model_config.get("extra") == "forbid", "unknown keys are not refused"
    assert model.model_config.get("strict"), "types are not strict"
    listed = {info.name: info for info in subject.entry.keys}
    own = {name for base in model.__mro__ if issubclass(base, Keys) for name in vars(base).get("__annotations__", {}) if not name.startswith(("_", "model_"))}
    assert set(listed) == own, f"the listing sees {sorted(listed)}, the model has {sorted(own)}: declare every key in the plug's own Keys class"
    for info in listed.values():
        assert info.meaning, f"key '{info.name}' has no meaning: write key(default, 'what it does')"
        if info.default != "(required)":
            try:
                ast.literal_eval(info.default)
            except ValueError:
                raise AssertionError(f"the default of '{info.name}' is {info.default}, which a listing cannot show: write a literal") from None


def check_reads_every_key(subject: Subject) -> None:
    """Every key that a recipe may set is read somewhere in the plug's file or its package's private modules."""
    file = Path(subject.entry.file)
    read: set[str] = set()
    for source in [file, *sorted(file.parent.glob("_*.py"))]:
        if source != file and source.stem not in file.read_text(encoding="utf-8"):
            continue
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Attribute, ast.Name)):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                if owner == "keys":
                    read.add(node.attr)
    unread = sorted({info.name for info in subject.entry.keys} - read)
    assert not unread, f"these keys are accepted and read by nothing: {', '.join(unread)}"


def check_imports_nothing_heavy(subject: Subject) -> None:
    """Importing the plug's module loads no heavy package, so that listing and checking stay fast."""
    heavy = _loaded_by(subject.entry.module)
    assert not heavy, f"importing {subject.entry.module} loads {', '.join(heavy)}: import them inside the functions that need them"


def check_imports_only_core(subject: Subject) -> None:
    """Of Attune it imports attune.core, and no other plug."""
    package = subject.entry.module.rpartition(".")[0]
    for node in ast.walk(ast.parse(Path(subject.entry.file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            private = name.startswith(package + "._")
            assert private or not name.startswith(ROOMS), f"line {node.lineno} imports {name}: a plug knows attune.core and nothing else of Attune"


@cache
def _heavy_imports() -> dict[str, list[str]]:
    """Module of every plug -> heavy packages that its import was the first to load, found in one process of its own."""
    modules = sorted(entry.module for entry in catalog.entries())
    code = (
        "import importlib, json, sys\n"
        "heavy, modules = json.loads(sys.argv[1])\n"
        "found = {}\n"
        "for name in modules:\n"
        "    before = set(sys.modules)\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception:\n"
        "        continue\n"
        "    found[name] = [one for one in heavy if one in sys.modules and one not in before]\n"
        "print(json.dumps(found))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, json.dumps([HEAVY, modules])], capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _loaded_by(module: str) -> list[str]:
    if module not in _heavy_imports():
        _heavy_imports.cache_clear()  # a plug that was installed since
    return _heavy_imports().get(module, [])
