"""Making a recipe folder: a copy of a shipped one, or one written for the user's own rows after a look at them."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli.guessing import rewards_open, understood
from attune.cli.screen import Screen
from attune.cli.tables import add, table
from attune.core import catalog
from attune.core.errors import DataError, PlugError, RecipeError, Refused, did_you_mean
from attune.core.text import readable

if TYPE_CHECKING:
    from attune.core.recipe import Recipe
    from attune.stages.curate.preview import Preview

ROOM = Path(__file__).resolve().parent.parent / "recipes"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
COPIED_BYTES = 50_000_000
"""Larger files are referred to where they are."""
CHARACTERS_PER_TOKEN, ROW_LENGTHS = 3, (128, 2048)
"""Fewer characters than most tokenizers make of a token, and the fewest and most tokens of a row that are written into a recipe."""
NO_BASE, NO_REWARD = "YOUR-BASE-MODEL", "YOUR-REWARD"
"""Stand where only the user can say which model (none that Attune brings along can do the task), and what an answer is worth."""
ROWS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


# -------------------------------------------------------- shipped recipes


def starters() -> dict[str, str]:
    """Shipped recipes: name -> the first line of its comment."""
    found = {}
    for path in sorted(ROOM.glob("*/recipe.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        found[path.parent.name] = first.lstrip("# ").strip()
    return found


def show_starters(screen: Screen) -> list[dict[str, str]]:
    """Print and return the shipped recipes."""
    made = table("recipe", "what it is")
    for name, purpose in starters().items():
        add(made, name, purpose)
    screen.show(made)
    screen.note("`attune init NAME --from RECIPE` copies one; `attune init NAME --data FILE` writes one for your rows")
    return [{"name": name, "purpose": purpose} for name, purpose in starters().items()]


def from_starter(screen: Screen, name: str, source: str) -> dict[str, Any]:
    """Copy a shipped recipe (its text, card and rows, not what built them) under a new name."""
    known = starters()
    if source not in known:
        raise RecipeError(f"there is no shipped recipe '{source}'", place="--from", fix=f"{did_you_mean(source, known)} (`attune init --list`)")
    origin = ROOM / source

    def fill(folder: Path) -> None:
        text = (origin / "recipe.yaml").read_text(encoding="utf-8")
        (folder / "recipe.yaml").write_text(re.sub(r"(?m)^name:.*$", f"name: {_name(name)}", text, count=1), encoding="utf-8")
        if (origin / "README.md").is_file():
            shutil.copyfile(origin / "README.md", folder / "README.md")
        for inner in sorted(one for one in origin.iterdir() if one.is_dir() and any(file.suffix in ROWS for file in one.iterdir())):
            shutil.copytree(inner, folder / inner.name)

    folder = _make(name, fill)
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    screen.show(f"{folder}: {known[source]}", *(f"  {path}" for path in inside), "", f"next      attune check {name}   then   attune run {name}")
    return {"folder": str(folder), "from": source, "files": inside}


# -------------------------------------------------------- the user's own rows


def from_data(screen: Screen, name: str, data: str, task: str | None, columns: list[str], base: str | None = None) -> dict[str, Any]:
    """Look at rows, write a recipe for them, and show what was understood."""
    from attune.cli.checking import show_data

    _free(name)
    path = Path(data).expanduser()
    if not path.exists() and "://" not in data and not any(sign in data for sign in "*?["):
        raise _missing(path, data)
    given = _columns(columns)
    location = data if "://" in data else str(path.resolve()) if path.exists() else str(Path.cwd() / path)
    recipe, seen, others = understood(_name(name), location, task, given, _kind(base))
    chosen = _base(recipe, base)
    copied = path.is_file() and path.stat().st_size <= COPIED_BYTES

    def fill(folder: Path) -> None:
        if copied:
            (folder / "data").mkdir()
            shutil.copyfile(path, folder / "data" / path.name)
        where = f"data/{path.name}" if copied else location
        (folder / "recipe.yaml").write_text(recipe_text(recipe, seen, where, chosen), encoding="utf-8")

    folder = _make(name, fill)
    screen.show(f"{folder / 'recipe.yaml'} is written: {_what(recipe)}, " + (f"with a copy of {path.name} in {folder / 'data'}" if copied else f"the rows stay at {location}"))
    result = show_data(screen, seen)
    if others:
        screen.warn(f"the task is a guess: {seen.read} rows could also be for {' or '.join(others)}; if {recipe.task.name} is not what you want, remove the folder and say --task {others[0]}")
    lacks = [what for what, missing in (("your base model (base_model)", chosen == NO_BASE), ("what an answer is worth (objective.rewards)", rewards_open(recipe, seen))) if missing]
    first = f"write {' and '.join(lacks)} into {folder / 'recipe.yaml'}, then   " if lacks else ""
    screen.show("", "is a column wrong? change `data.columns` in the recipe", f"next      {first}attune check {name}   then   attune run {name}")
    return {
        "folder": str(folder),
        "task": recipe.task.name,
        "objective": recipe.objective.name,
        "base_model": None if chosen == NO_BASE else chosen,
        "other_tasks": others,
        "copied": copied,
        "data": result,
    }


def _what(recipe: Recipe) -> str:
    """Task, and objective where it is not the task's own."""
    return recipe.task.name if recipe.objective.name == recipe.task.defaults.objective else f"{recipe.task.name} with objective {recipe.objective.name}"


def _base(recipe: Recipe, given: str | None) -> str:
    """The base model to write: the one that was named (a folder by its full path, since the recipe stands elsewhere), else the recipe's where the task can
    be built on it.

    Raises:
        AttuneError: the named base is not there, or the task cannot be built on it.
    """
    from attune.core.models import require_base, resolve_base

    if given is not None:
        named = _located(given)
        require_base(recipe.task, resolve_base(named, None, Path.cwd()))
        return named
    try:
        require_base(recipe.task, resolve_base(recipe.keys.base_model, None, Path.cwd()))
    except PlugError:
        return NO_BASE
    return recipe.keys.base_model


def _kind(base: str | None) -> str | None:
    """What kind of model was named (`core.models.base_kind`); None where none was."""
    from attune.core.models import resolve_base

    return None if base is None else resolve_base(_located(base), None, Path.cwd()).kind


def _located(base: str) -> str:
    """A base as a recipe may name it from anywhere: a folder by its full path."""
    return str(Path(base).expanduser().resolve()) if Path(base).expanduser().is_dir() else base


def _missing(path: Path, data: str) -> DataError:
    near = sorted(one.name for one in path.parent.iterdir() if one.suffix.lower() in ROWS) if path.parent.is_dir() else []
    fix = did_you_mean(path.name, near) if near else f"there are no row files in {path.parent.resolve()}; give the path of a CSV, JSONL or Parquet file"
    return DataError(f"there is no file or folder '{data}'", place="--data", fix=fix)


def _columns(given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        role, sign, column = one.partition("=")
        if not sign or not role or not column:
            raise RecipeError(f"'{one}' is not ROLE=COLUMN", place="--column", fix="for example --column text=Body --column label=Kind")
        found[role] = column
    return found


# -------------------------------------------------------- the recipe's text


def _methods(recipe: Recipe) -> str:
    if "torch" not in recipe.task.traits:
        return "# How it learns (`attune list methods`)."
    quickest = "" if "text-out" in recipe.task.traits else ", head is the quickest"
    return f"# Which weights move (`attune list methods`): full moves all, lora adds small matrices{quickest}."


def _train(recipe: Recipe, seen: Preview, base: str) -> str:
    if "torch" not in recipe.task.traits:
        return f"# How fast it learns: the method's own default, unless you write it here.\n# train:\n#   learning_rate: {recipe.method.learning_rate:g}"
    how, epochs = "# How long and how fast: the method's own defaults, unless you write epochs, learning_rate, batch_size ... here.\n", f"epochs: {recipe.method.epochs:g}"
    if "prefers" not in recipe.task.traits:
        return f"{how}# train:\n#   {epochs}"
    length = "# Tokens of a row, question and answer together; guessed from the longest of the rows, `attune check` counts them."
    return f"{how}train:\n  {length}\n  max_length: {_row_length(seen, base)}\n  # {epochs}"


def _row_length(seen: Preview, base: str) -> int:
    """Tokens that the longest of the sampled rows takes at most: a power of two, as far as the base has positions."""
    longest = max((sum(len(readable(value)) for role, value in row.items() if role not in ("place", "row_id")) for row in seen.sample), default=0)
    tokens = min(max(1 << math.ceil(math.log2(max(longest / CHARACTERS_PER_TOKEN, 1))), ROW_LENGTHS[0]), ROW_LENGTHS[1])
    if base == NO_BASE:
        return tokens
    from attune.core.models import resolve_base

    config = resolve_base(base, None, Path.cwd()).folder / "config.json"
    room = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    return min(tokens, room) if isinstance(room, int) else tokens


_WANTED = """
# None comes with Attune that writes texts: name a causal language model, such as SmolLM, Qwen, Llama, Gemma, Mistral or GPT-2."""


def _objective(recipe: Recipe, seen: Preview) -> str:
    """The lines about the objective, where it is not the task's own."""
    if recipe.objective.name == recipe.task.defaults.objective:
        return ""
    rewards = [part.name for part in recipe.objective.parts() if part.kind == "rewards"]
    if not rewards:
        return f"# What the rows teach (`attune list objectives`).\nobjective: {recipe.objective.name}\n\n"
    wanted = "; prompts alone do not say it, so write yours here" if rewards_open(recipe, seen) else ""
    return f"""# What the rows teach (`attune list objectives`), and what an answer is worth (`attune list rewards`){wanted}.
objective:
  name: {recipe.objective.name}
  rewards: [{NO_REWARD if wanted else ", ".join(rewards)}]

"""


def recipe_text(recipe: Recipe, seen: Preview, where: str, base: str) -> str:
    """A recipe with a comment at every section, every value what was detected or what holds by default."""
    task = recipe.resolved()["task"]
    keys = {key: value for key, value in task.items() if key != "name" and key in recipe.task.keys.model_fields_set}
    columns = "".join(f"    {role}: {_scalar(column) if isinstance(column, str) else '[' + ', '.join(map(_item, column)) + ']'}\n" for role, column in seen.columns.items())
    main = recipe.main_metric
    limit = "at_least: 0.9" if catalog.load("metrics", main).higher_is_better else "at_most: 0.5"  # type: ignore[attr-defined]
    hints = "".join(f"    # {hint}\n" for hint in seen.hints)
    return f"""# {recipe.name}: a specialist tuned on {Path(where).name}. `attune check` explains, `attune run` does it.
# Every key with its default: `attune show .` in this folder; what may stand where: `attune list`.
name: {recipe.name}

# What the specialist does (`attune list tasks`).
task: {_scalar(task["name"]) if not keys else json.dumps({"name": task["name"], **keys})}

{_objective(recipe, seen)}# The general model it starts from: package:MODULE, a folder, {"or a hub id with a revision" if "torch" in recipe.task.traits else "or none"}.{_WANTED if base == NO_BASE else ""}
base_model: {_scalar(base)}

{_methods(recipe)}
method: {recipe.method.name}

# Every random draw comes from this number.
seed: {recipe.keys.seed}

data:
  path: {_scalar(where)}
  # Which column is what; correct it here if the detection was wrong.
{("  columns:" + chr(10) + columns) if columns else "  # columns: the task reads these rows by itself" + chr(10)}  # Test rows are sealed until grading. by: stratified, group (a customer stays on one side), time, or given.
  splits:
{hints}    by: stratified
    test: 0.2
    validation: 0.1

{_train(recipe, seen, base)}

# What a release must pass. Without gates: significantly better than the best rival on {main}, and not worse than the release in use.
# gates:
#   - {{metric: {main}, better_than: best_rival}}
#   - {{metric: {main}, {limit}}}
"""


def _item(text: str) -> str:
    """A text as an item of a YAML list on one line."""
    return text if re.fullmatch(r"[A-Za-z_]\w*", text) and _scalar(text) == text else json.dumps(text, ensure_ascii=False)


def _scalar(text: str) -> str:
    """A text as a YAML value that reads back as the same text."""
    from attune.core.errors import RecipeError as Wrong
    from attune.core.yaml_reader import read_yaml

    if re.fullmatch(r"[A-Za-z0-9_./~][\w ./:~-]*", text):
        try:
            if read_yaml(f"a: {text}\n", "")[0]["a"] == text:
                return text
        except Wrong:
            return json.dumps(text, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


# -------------------------------------------------------- folders


def _name(name: str) -> str:
    """The specialist's name from what may be a path; RecipeError when it is none."""
    last = Path(name).name
    if not NAME.fullmatch(last):
        raise RecipeError(f"'{last}' cannot be a name", place="attune init", fix="letters, digits, - and _, at most 64, beginning with a letter or digit: for example claims")
    return last


def _free(name: str) -> None:
    _name(name)
    folder = Path(name)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        what = "a file" if folder.is_file() else "a folder that is not empty"
        raise Refused(f"'{name}' exists already: {what}", place="attune init", fix="choose another name, or move it away; nothing was overwritten")


def _make(name: str, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary folder and rename it to `name`, so that a half-made one never stays."""
    _free(name)
    target = Path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{target.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        fill(temporary)
        os.chmod(temporary, 0o755)
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
