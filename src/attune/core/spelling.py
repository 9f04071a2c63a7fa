"""From what the user wrote to canonical recipe keys: other tools' spellings, short forms and `--set`, each told in a notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from attune.core import catalog
from attune.core.errors import AttuneError, RecipeError
from attune.core.keys import Keys, aliases_of, groups_of, plugs_of
from attune.core.yaml_reader import Lines, parse_value

ELSEWHERE = {
    "gradient_accumulation_steps": "write train.batch_size: the rows of one optimizer step (micro_batch_size x gradient_accumulation_steps)",
    "gradient_accumulation": "write train.batch_size: the rows of one optimizer step (batch x gradient_accumulation)",
    "output_dir": "remove it: everything is kept in the workspace (--workspace FOLDER)",
    "resume_from_checkpoint": "remove it: the same command resumes by itself",
    "resume": "remove it: the same command resumes by itself",
    "eval_steps": "write train.evaluations_per_epoch",
    "eval_strategy": "write train.evaluations_per_epoch",
    "save_strategy": "write train.checkpoint_every",
    "logging_steps": "remove it: every step is recorded in the run folder",
    "bf16": "write train.precision: bf16",
    "fp16": "write train.precision: bf16 or fp32",
    "output_features": "write data.columns: {ROLE: COLUMN}",
    "input_features": "write data.columns: {ROLE: COLUMN}",
    "model_type": "write task",
    "num_labels": "remove it: the labels are read from the rows",
}
"""Keys of other tools that have no counterpart of the same meaning -> what to do instead."""

Place = tuple[str, ...]


@dataclass
class Spelling:
    """Renames one mapping of recipe keys.

    Args:
        root: the model of the whole recipe.
        plugs: recipe key -> key model of the plug that stands (or by default would stand) there.
    """

    root: type[Keys]
    plugs: Mapping[str, type[Keys]]
    notices: list[str] = field(default_factory=list)
    problems: list[AttuneError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.homes: dict[str, list[tuple[Place, str]]] = {}
        for name, model in {**groups_of(self.root), **self.plugs}.items():
            for spelling, canonical in {**aliases_of(model), **{own: own for own in model.model_fields}}.items():
                self.homes.setdefault(spelling, []).append(((name,), canonical))
            for inner, group in groups_of(model).items():
                for alias, canonical in aliases_of(group).items():
                    self.homes.setdefault(alias, []).append(((name, inner), canonical))

    def canonical(self, given: Mapping[str, Any], lines: Lines, told: bool = True) -> dict[str, Any]:
        """`given` with every spelling renamed or moved to where it belongs; `lines` learns the new places."""
        result: dict[str, Any] = {}
        moved: list[tuple[str, Place, str, Any]] = []
        top = aliases_of(self.root)
        for name, value in given.items():
            homes = self.homes.get(name, [])
            if name in self.root.model_fields:
                self._put(result, name, name, value, lines, "")
            elif len(homes) == 1 and not (name in top and isinstance(value, (dict, list))):
                moved.append((name, *homes[0], value))
            elif name in top:
                self._put(result, top[name], name, value, lines, "")
            elif homes:
                options = [".".join((*place, own)) for place, own in homes]
                self.problems.append(RecipeError(f"'{name}' could mean {' or '.join(options)}", place=name, fix=f"write {options[0]}, or {options[1]}, where you mean it"))
            elif not self._belongs_elsewhere(name, name):
                result[name] = value
        self._short_forms(result)
        for section, model in groups_of(self.root).items():
            if isinstance(result.get(section), dict):
                result[section] = self._group(result[section], model, section, lines)
        for slot, model in self.plugs.items():
            if isinstance(result.get(slot), dict):
                result[slot] = self._renamed(result[slot], model, slot, lines)
        for name, place, canonical, value in moved:
            self._move(result, name, place, canonical, value, lines)
        return result

    def _put(self, target: dict[str, Any], canonical: str, name: str, value: Any, lines: Lines, place: str) -> None:
        where, there = (".".join(p for p in (place, part) if p) for part in (name, canonical))
        if canonical in target:
            self.problems.append(RecipeError(f"'{name}' and '{canonical}' say the same thing", place=where, fix=f"keep '{canonical}'"))
            return
        if name != canonical:
            self.notices.append(f"'{where}' is taken as '{there}'")
            _relocate(lines, where, there)
        target[canonical] = value

    def _move(self, result: dict[str, Any], name: str, place: Place, canonical: str, value: Any, lines: Lines) -> None:
        target = result
        for part in place:
            inner = target.get(part)
            if isinstance(inner, str) and part in self.plugs:
                inner = {"name": inner}
            elif inner is not None and not isinstance(inner, dict):
                self.problems.append(RecipeError(f"'{name}' belongs into '{'.'.join(place)}', which is not a mapping", place=name, fix=f"write {'.'.join(place)}.{canonical}"))
                return
            target[part] = dict(inner or {})
            target = target[part]
        there = ".".join((*place, canonical))
        if canonical in target:
            self.problems.append(RecipeError(f"'{name}' and '{there}' say the same thing", place=name, fix=f"keep '{there}'"))
            return
        target[canonical] = value
        self.notices.append(f"'{name}' is taken as '{there}'")
        _relocate(lines, name, there)

    def _group(self, values: dict[str, Any], model: type[Keys], place: str, lines: Lines) -> dict[str, Any]:
        found = self._renamed(values, model, place, lines)
        for name, inner in groups_of(model).items():
            if isinstance(found.get(name), dict):
                found[name] = self._group(found[name], inner, f"{place}.{name}", lines)
        return found

    def _renamed(self, values: dict[str, Any], model: type[Keys], place: str, lines: Lines) -> dict[str, Any]:
        aliases = aliases_of(model)
        found: dict[str, Any] = {}
        for name in sorted(values, key=lambda one: one not in model.model_fields):
            known = name in model.model_fields or name in aliases or (place in self.plugs and name == "name")
            if known or not self._belongs_elsewhere(name, f"{place}.{name}"):
                self._put(found, name if name in model.model_fields else aliases.get(name, name), name, values[name], lines, place)
        return found

    def _belongs_elsewhere(self, name: str, place: str) -> bool:
        """Report a key that is known, but not here; False when nobody knows it."""
        fix = ELSEWHERE.get(name)
        homes = [".".join((*home, own)) for home, own in self.homes.get(name, []) if ".".join(home) != place.rpartition(".")[0]]
        owner = None if homes else self._plug_with(name)
        if homes:
            self.problems.append(RecipeError(f"'{name}' does not belong here", place=place, fix=f"write it as {' or '.join(homes)}"))
        elif owner is not None:
            slot, entry, canonical = owner
            self.problems.append(
                RecipeError(f"'{name}' belongs to {slot} '{entry.name}', which this recipe does not use", place=place, fix=f"write `{slot}: {{name: {entry.name}, {canonical}: ...}}`, or remove it")
            )
        elif fix:
            self.problems.append(RecipeError(f"'{name}' is not a key of Attune's recipes", place=place, fix=fix))
        return bool(homes or owner or fix)

    def _plug_with(self, name: str) -> tuple[str, catalog.Entry, str] | None:
        """Slot, plug and key that a key's name belongs to; where several plugs know it, the one that its name begins with, as in lora_r."""
        found = [
            (slot, entry, one.name)
            for slot, info in self.root.model_fields.items()
            if plugs_of(info) and slot in slots_of(self.root)
            for entry in catalog.entries(plugs_of(info))
            for one in entry.keys
            if name == one.name or name in one.aliases
        ]
        return next((one for one in found if name.startswith(one[1].name + "_")), found[0] if found else None)

    def _short_forms(self, result: dict[str, Any]) -> None:
        """`data: rows.csv` and a list of one mapping are what other tools write for `data: {path: rows.csv}`; `type` is their `name`."""
        data = result.get("data")
        if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict):
            result["data"] = data[0]
            self.notices.append("'data', a list of one, is taken as that one")
        elif isinstance(data, str) or (isinstance(data, list) and data and all(isinstance(one, str) for one in data)):
            result["data"] = {"path": data}
            self.notices.append("'data' is taken as 'data.path'")
        for slot in self.plugs:
            spec = result.get(slot)
            if isinstance(spec, dict) and "name" not in spec and isinstance(spec.get("type"), str):
                result[slot] = {("name" if name == "type" else name): value for name, value in spec.items()}
                self.notices.append(f"'{slot}.type' is taken as '{slot}.name'")


def slots_of(root: type[Keys]) -> dict[str, str]:
    """Recipe keys that hold exactly one plug at the top level -> its kind."""
    return {name: plugs_of(field) for name, field in root.model_fields.items() if plugs_of(field) and not holds_list(field.annotation)}


def holds_list(annotation: Any) -> bool:
    """True when a key's type is a list (or nothing)."""
    return get_origin(annotation) is list or any(get_origin(one) is list for one in get_args(annotation))


def overrides(settings: tuple[str, ...], slots: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """`--set key.path=value` texts as one nested mapping and the dotted paths they set; the last one of a path holds."""
    values: dict[str, Any] = {}
    paths: list[str] = []
    for setting in settings:
        path, sign, text = setting.partition("=")
        parts = path.strip().split(".")
        if not sign or not all(parts):
            raise RecipeError(f"'{setting}' is not key=value", place="--set", fix="for example --set train.epochs=3")
        target = values
        for part in parts[:-1]:
            inner = target.get(part)
            target[part] = dict(inner) if isinstance(inner, dict) else {"name": inner} if isinstance(inner, str) and part in slots else {}
            target = target[part]
        target[parts[-1]] = parse_value(text, f"--set {path.strip()}")
        paths.append(path.strip())
    return values, paths


def merged(below: Any, above: Any, slots: Mapping[str, str] | None = None, place: str = "--set") -> Any:
    """`above` laid over `below`, key by key; list items by number; a plug given as its name takes keys."""
    if isinstance(below, list) and isinstance(above, dict) and above and all(key.isdigit() for key in above):
        found = list(below)
        for key, value in above.items():
            if int(key) >= len(found):
                raise RecipeError(f"there is no item {key}", place=f"{place}.{key}", fix=f"items are numbered from 0 to {len(found) - 1}")
            found[int(key)] = merged(found[int(key)], value, None, f"{place}.{key}")
        return found
    if not isinstance(above, dict):
        return above
    if not isinstance(below, dict):
        return above
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if slots and key in slots and isinstance(under, str) and isinstance(value, dict) and "name" not in value:
            under = {"name": under}
        elif slots and key in slots and isinstance(under, dict) and isinstance(value, str):
            value = {"name": value}
        result[key] = merged(under, value, None, f"{place}.{key}" if place != "--set" else f"--set {key}")
    return result


def _relocate(lines: Lines, old: str, new: str) -> None:
    for path, line in list(lines.items()):
        if path == old or path.startswith(f"{old}."):
            lines.setdefault(new + path[len(old) :], line)
