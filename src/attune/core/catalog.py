"""Finding plugs. The folder `catalog/<kind>/` is the list (a file is a plug, its name the plug's name); packages add theirs by the
entry point group `attune.<kind>`. Listing reads source text and imports nothing; loading imports one plug."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attune.core import contracts, rewards  # noqa: F401 (rewards: its contract is a kind of plug too)
from attune.core.errors import PlugError, Problems, RecipeError, did_you_mean
from attune.core.keys import Keys, aliases_of
from attune.core.problems import key_problems

ROOM = Path(__file__).resolve().parent.parent / "catalog"
KINDS: dict[str, type[contracts.Plug]] = {cls.kind: cls for cls in contracts.Plug.__subclasses__() if cls.kind}
"""kind -> contract, found from the contracts themselves."""


@dataclass(frozen=True)
class KeyInfo:
    """One recipe key of a plug as its source declares it."""

    name: str
    type: str
    default: str
    """Source text of the default; '(required)' when there is none."""
    meaning: str
    aliases: tuple[str, ...] = ()
    """Spellings of other tools."""


@dataclass(frozen=True)
class Entry:
    """A plug as its file declares it."""

    kind: str
    name: str
    purpose: str
    keys: tuple[KeyInfo, ...]
    requires: tuple[str, ...]
    traits: tuple[str, ...]
    module: str
    origin: str
    """'attune' or the distribution that brings it."""
    file: str

    def as_json(self) -> dict[str, Any]:
        """The entry for machines."""
        return {k: v for k, v in asdict(self).items() if k != "file"}


def entries(kind: str | None = None) -> list[Entry]:
    """Every plug (of a kind), sorted; imports none of them. A plug that cannot be read is an error that names its file."""
    kinds = [kind] if kind else sorted(KINDS)
    found: list[Entry] = []
    for one in kinds:
        if one not in KINDS:
            raise PlugError(f"there is no kind of plug '{one}'", fix=did_you_mean(one, KINDS))
        found += _entries(one)
    return found


@cache
def _entries(kind: str) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for file in sorted((ROOM / kind).glob("*.py")):
        if not file.stem.startswith("_"):
            found[file.stem] = _read(kind, file.stem, file, f"attune.catalog.{kind}.{file.stem}", "attune")
    for point in sorted(importlib.metadata.entry_points(group=f"attune.{kind}"), key=lambda p: p.name):
        origin = point.dist.name if point.dist else "unknown"
        if point.name in found:
            raise PlugError(
                f"two plugs are called '{point.name}': one from {found[point.name].origin}, one from {origin}",
                place=f"entry point group attune.{kind}",
                fix=f"rename the entry point in {origin}",
            )
        found[point.name] = _read(kind, point.name, _find_file(point.module, kind, origin), point.module, origin)
    return tuple(found.values())


def _find_file(module: str, kind: str, origin: str) -> Path:
    """The file of a module without importing the module or its parents."""
    head, *rest = module.split(".")
    spec = importlib.util.find_spec(head)
    if spec is not None and not rest and spec.origin:
        return Path(spec.origin)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place).joinpath(*rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    raise PlugError(f"the entry point's module '{module}' cannot be found", place=f"attune.{kind} of {origin}", fix=f"reinstall {origin}")


def _read(kind: str, name: str, file: Path, module: str, origin: str) -> Entry:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise PlugError(f"plug '{name}' cannot be read: {error}", place=str(file), fix="mend or remove the file") from error
    purpose = (ast.get_docstring(tree) or "").strip().split("\n\n")[0].replace("\n", " ")
    if not purpose:
        raise PlugError(f"plug '{name}' does not say what it is for", place=str(file), fix="open the file with a docstring of a sentence")
    keys: tuple[KeyInfo, ...] = ()
    requires: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        if any(_tail(base) == "Keys" for base in node.bases):
            keys += tuple(_key_info(part) for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name))
        requires = _names(node, "requires") or requires
        traits = _names(node, "traits") or traits
    return Entry(kind, name, purpose, keys, requires, traits, module, origin, str(file))


def _tail(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.ClassDef, attribute: str) -> tuple[str, ...]:
    """Texts in the class attribute's value, sorted."""
    for part in node.body:
        if isinstance(part, ast.Assign):
            target, value = part.targets[0], part.value
        elif isinstance(part, ast.AnnAssign) and part.value is not None:
            target, value = part.target, part.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id == attribute:
            return tuple(sorted(_texts(value)))
    return ()


def _texts(node: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def _key_info(part: ast.AnnAssign) -> KeyInfo:
    name = part.target.id if isinstance(part.target, ast.Name) else ""
    default, meaning, aliases = "(required)", "", ()  # type: str, str, tuple[str, ...]
    if isinstance(part.value, ast.Call) and _tail(part.value.func) == "key":
        arguments = list(part.value.args)
        named = {k.arg: k.value for k in part.value.keywords}
        first = arguments[0] if arguments else named.get("default")
        second = arguments[1] if len(arguments) > 1 else named.get("description")
        if first is not None and not (isinstance(first, ast.Constant) and first.value is ...):
            default = ast.unparse(first)
        if isinstance(second, ast.Constant):
            meaning = str(second.value)
        if "aliases" in named:
            aliases = tuple(_texts(named["aliases"]))
    elif part.value is not None:
        default = ast.unparse(part.value)
    return KeyInfo(name, ast.unparse(part.annotation), default, meaning, aliases)


@cache
def load(kind: str, name: str) -> type[contracts.Plug]:
    """Import one plug and return its class; a missing, broken or wrong one is a PlugError that says which file."""
    known = {entry.name: entry for entry in entries(kind)}
    if name not in known:
        raise PlugError(f"there is no {kind[:-1]} '{name}'", place=kind, fix=_which(kind, name))
    entry = known[name]
    try:
        module = importlib.import_module(entry.module)
    except ImportError as error:
        raise PlugError(f"{kind[:-1]} '{name}' cannot be imported: {error}", place=entry.file, fix=f"install what it needs ({error.name or 'see the message'})") from error
    except Exception as error:
        raise PlugError(f"{kind[:-1]} '{name}' fails while it is imported: {type(error).__name__}: {error}", place=entry.file, fix=f"mend the file, or remove {entry.origin}") from error
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, KINDS[kind]) and value.__module__ == module.__name__ and not value.__name__.startswith("_")]
    if len(classes) != 1:
        raise PlugError(f"{kind[:-1]} '{name}' must define exactly one public class of type {KINDS[kind].__name__}; found {len(classes)}", place=entry.file, fix="keep one, make helpers private")
    plug = classes[0]
    if getattr(plug, "__abstractmethods__", None):
        raise PlugError(f"{kind[:-1]} '{name}' leaves open: {', '.join(sorted(plug.__abstractmethods__))}", place=entry.file, fix="write the missing methods")  # type: ignore[attr-defined]
    plug.name = name
    return plug


def _which(kind: str, name: str) -> str:
    return f"{did_you_mean(name, [entry.name for entry in entries(kind)])} (see `attune list {kind}`)"


PlugSpec = str | Mapping[str, Any]
"""A plug in a recipe: its name, or a mapping with `name` and the plug's keys."""


def spec_parts(spec: PlugSpec, place: str) -> tuple[str, dict[str, Any]]:
    """Name and keys of a plug spec."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        return spec["name"], {k: v for k, v in spec.items() if k != "name"}
    raise RecipeError(f"expected a plug's name or a mapping with 'name', got {spec!r}", place=place, fix="write for example `lora` or `{name: lora, rank: 8}`")


def build(kind: str, spec: PlugSpec, place: str | None = None) -> Any:
    """A plug object from its recipe spec, its keys validated strictly; every wrong key is reported at once."""
    place = place or kind
    name, values = spec_parts(spec, place)
    if name not in {entry.name for entry in entries(kind)}:
        raise PlugError(f"there is no {kind[:-1]} '{name}'", place=place, fix=_which(kind, name))
    plug = load(kind, name)
    return plug(validate(plug.keys_type, values, place))


def build_in(folder: Path, kind: str, spec: PlugSpec, place: str) -> Any:
    """`build`, for a recipe in a folder: relative paths of the plug's keys begin there, and a file that it reads must be there."""
    return put_in(folder, build(kind, spec, place), place)


def put_in(folder: Path, plug: Any, place: str) -> Any:
    """A plug of a recipe in a folder; see `build_in`."""
    plug.folder = folder
    for one in (plug, *plug.parts()):
        missing = next((path for path in one.reads() if not path.exists()), None)
        if missing is not None:
            raise RecipeError(f"there is no '{missing}', which {one.kind[:-1]} '{one.name}' reads", place=place, fix="mend the path, which begins in the recipe's folder, or put it there")
    return plug


def named(plugs: Iterable[Any], taken: Collection[str] = ()) -> dict[str, Any]:
    """Plugs by name; a second one of the same name, or one whose name is taken, is called name_2."""
    found: dict[str, Any] = {}
    for plug in plugs:
        name, number = plug.name, 1
        while name in found or name in taken:
            number += 1
            name = f"{plug.name}_{number}"
        found[name] = plug
    return found


def plug_name(kind: str, name: str) -> str:
    """The plug behind a name that `named` gave."""
    before, _, number = name.rpartition("_")
    return before if number.isdigit() and name not in {entry.name for entry in entries(kind)} else name


def validate(model: type[Keys], values: Mapping[str, Any], place: str) -> Keys:
    """Keys from a mapping; aliases are taken for their canonical names; raises Problems with every wrong key at once."""
    aliases = aliases_of(model)
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        canonical = name if name in model.model_fields else aliases.get(name, name)
        if canonical in renamed:
            raise RecipeError(f"'{name}' and '{canonical}' say the same thing", place=f"{place}.{name}", fix=f"keep '{canonical}'")
        renamed[canonical] = value
    try:
        return model.model_validate(renamed)
    except ValidationError as error:
        raise Problems(key_problems(error, model, place), title=f"{place} has keys that cannot be used:") from error
