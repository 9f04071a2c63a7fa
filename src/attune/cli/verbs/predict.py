"""`attune predict`: ask a release without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LIVE, verb


@verb(
    order=100,
    panel=LIVE,
    examples=(
        ('attune predict claims "my parcel never came" "let me in"', "answers with confidence"),
        ("attune predict claims --file new.csv --out answers.csv", "a whole file; the columns as in training, or named as the task's inputs"),
        ('attune predict claims --release claims@1 "hello" --json', "another release, for machines"),
    ),
)
def predict(
    screen: Screen,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A specialist's name.", show_default=False)],
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts to answer.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="CSV, JSONL or Parquet with the inputs.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the answers as CSV or JSONL (by the name's ending).", show_default=False)] = None,
    release: Annotated[str | None, typer.Option("--release", metavar="ID", help="A release id or NAME@VERSION; default: the approved one.", show_default=False)] = None,
) -> Any:
    """Ask the approved release: texts, or a file of them."""
    from attune.cli.asking import ask

    return ask(screen, name, list(text or []), file, out, release)
