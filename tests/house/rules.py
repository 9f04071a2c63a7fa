"""The house's rules as functions from source text to offences, so that a planted offence can show that each rule bites."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "attune"
CATALOG = SOURCE / "catalog"
PLUG_LINES, HOST_LINES = 260, 500
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "numpy.load", "np.load", "pandas.read_pickle"}
LEFT_OPEN = re.compile(r"NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b")
MACHINE_PATHS = re.compile(r"/wor[k]/(main|shared|venv|steering)|/tmp/bash_job[s]|/home/[a-z]+/|/Users/[A-Za-z]+/|/root/\.")
REGISTRY_HOSTS = re.compile(r"index-ur[l]|https?://[^\s\"')]*(/simple\b|/packages/|registry\.)|pypi\.or[g]|pythonhosted\.or[g]|download\.pytorch\.or[g]")


def python_files(folder: Path = SOURCE) -> list[Path]:
    """Every Python file of the package; the recipes' are data."""
    return sorted(p for p in folder.rglob("*.py") if "recipes" not in p.relative_to(folder).parts)


def plug_names() -> dict[str, set[str]]:
    """kind -> names of the plugs in the catalog."""
    return {folder.name: {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")} for folder in CATALOG.iterdir() if folder.is_dir() and folder.name != "__pycache__"}


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def forbidden_calls(text: str) -> Iterator[str]:
    """Formats and calls that can carry code, and prints."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.Call):
            if _called(node) in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: calls {_called(node)}"
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code" or (keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)):
                    yield f"line {node.lineno}: passes {keyword.arg}"


def prints(text: str) -> Iterator[str]:
    """Calls of print, and writes to the standard streams."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _called(node) in ("print", "sys.stdout.write", "sys.stderr.write"):
            yield f"line {node.lineno}: {_called(node)}"


def swallowed(text: str) -> Iterator[str]:
    """Handlers that catch everything and do nothing."""
    for node in ast.walk(ast.parse(text)):
        broad = isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        if broad and all(isinstance(one, ast.Pass) for one in node.body):  # type: ignore[attr-defined]
            yield f"line {node.lineno}: an error is swallowed"  # type: ignore[attr-defined]


def central_lists(text: str, names: dict[str, set[str]]) -> Iterator[str]:
    """Literals that hold two or more plugs of a kind, and comparisons of a name with a plug's."""
    every = set().union(*names.values())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            items = [*node.keys, *node.values] if isinstance(node, ast.Dict) else node.elts
            held = {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}
            for kind, known in names.items():
                if len(held & known) > 1:
                    yield f"line {node.lineno}: a list of {kind}: {', '.join(sorted(held & known))}"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = [one for one in sides if isinstance(one, ast.Attribute) and one.attr in ("name", "task", "method", "objective")]
            said = [one.value for one in sides if isinstance(one, ast.Constant) and one.value in every]
            if named and said:
                yield f"line {node.lineno}: asks whether something is called {said[0]}"


def chosen_plugs(text: str, names: dict[str, set[str]]) -> Iterator[str]:
    """Mappings that set a recipe's plug by name."""
    for node in ast.walk(ast.parse(text)):
        for slot, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            if isinstance(slot, ast.Constant) and isinstance(value, ast.Constant) and value.value in names.get(f"{slot.value}s", ()):
                yield f"line {node.lineno}: chooses {slot.value} {value.value}"


def undocumented(text: str) -> Iterator[str]:
    """Public modules, classes and functions without a docstring."""
    tree = ast.parse(text)
    if not ast.get_docstring(tree):
        yield "line 1: the module"
    stack: list[ast.AST] = [tree]
    while stack:
        for node in ast.iter_child_nodes(stack.pop()):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                overloaded = any(ast.unparse(one).endswith(".setter") for one in node.decorator_list)
                if not ast.get_docstring(node) and not overloaded:
                    yield f"line {node.lineno}: {node.name}"
                if isinstance(node, ast.ClassDef):
                    stack.append(node)


def too_long(path: Path, text: str) -> Iterator[str]:
    """More lines than a plug or a host may have."""
    plug = CATALOG in path.parents
    limit = PLUG_LINES if plug else HOST_LINES
    lines = text.count("\n")
    if lines >= limit:
        yield f"{lines} lines; {'plugs' if plug else 'modules'} have fewer than {limit}"


def left_open(text: str) -> Iterator[str]:
    """What was meant to be done later."""
    for number, line in enumerate(text.splitlines(), start=1):
        if LEFT_OPEN.search(line):
            yield f"line {number}: {line.strip()[:80]}"


def machine_traces(text: str) -> Iterator[str]:
    """Absolute paths of somebody's machine, and hosts of package registries."""
    for number, line in enumerate(text.splitlines(), start=1):
        if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
            yield f"line {number}: {line.strip()[:100]}"
