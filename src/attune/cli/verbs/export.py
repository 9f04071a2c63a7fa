"""`attune export`: a release in other forms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LIVE, verb


@verb(
    order=110,
    panel=LIVE,
    examples=(
        ("attune export claims --to out", "the formats that the recipe or the task names"),
        ("attune export claims@2 --to out --format transformers", "a plain transformers folder that loads without Attune"),
        ("attune export replies --to out --format gguf --format vllm", "one file for llama.cpp, and a folder for vLLM with its command line"),
        ("attune export replies --to out --format ollama --golden questions.jsonl", "proven on questions of your own, one JSON text a line"),
    ),
)
def export(
    screen: Screen,
    release: Annotated[str, typer.Argument(metavar="NAME|ID", help="A specialist's name (its approved release), NAME@VERSION, or a release id.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the formats' folders are made.", show_default=False)],
    format: Annotated[list[str] | None, typer.Option("--format", metavar="NAME", help="A format (`attune list exports`); may be repeated.", show_default=False)] = None,
    golden: Annotated[Path | None, typer.Option("--golden", metavar="FILE", help="JSON lines to prove it on; default: rows of the validation split.", show_default=False)] = None,
) -> Any:
    """Write a release as other formats; each one has to answer like the release before it is kept.

    What was proven stands in `certificate.json` of each folder: figures, versions and hashes. A form whose engine is not installed here is kept as unverified.
    """
    from attune.cli.names import approved_or_newest, recipe_of, release_of
    from attune.cli.summary import short
    from attune.cli.tables import facts
    from attune.core.events import Events
    from attune.core.runs import recipe_folder
    from attune.stages import register

    found = release_of(screen, release) if release.startswith("release-") or "@" in release else approved_or_newest(screen, release)
    workspace = screen.workspace(create=False)
    recipe = recipe_of(workspace, found)
    wanted: list[Any] = list(format or recipe.keys.exports or recipe.task.defaults.exports)
    proven = register.export(workspace, found, wanted, to, Events(None, (screen.hear,)), recipe_folder(workspace, found), golden)
    screen.end_live()
    screen.show(facts([(name, f"{short(to / name)}\n{about['words']}") for name, about in proven.items()], title=f"version {found.version} of '{found.specialist}'"))
    return {"release": found.id, "formats": {name: {"folder": str(to / name), **about} for name, about in proven.items()}}
