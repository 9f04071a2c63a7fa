"""What a person sees: results on stdout; notes, stage lines and live progress on stderr; nothing but one document with --json."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from attune.cli.live import Live
    from attune.core.errors import AttuneError
    from attune.core.recipe import Recipe
    from attune.core.workspace import Workspace

PLAIN_WIDTH = 160
"""Columns where the output is no terminal."""


class Screen:
    """One command's output and common options.

    Args:
        as_json: only one JSON document on stdout.
        quiet: no notes, no progress.
        workspace_folder: --workspace.
        settings: --set texts.
    """

    current: ClassVar[Screen | None] = None
    """The screen of the command that runs, for the program's error messages."""

    def __init__(self, as_json: bool = False, quiet: bool = False, workspace_folder: Path | None = None, settings: tuple[str, ...] = ()) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.workspace_folder = workspace_folder
        self.settings = settings
        self.exit_code = 0
        self.run_folder: Path | None = None
        """Set when a run has a folder; where a report of an unexpected error goes."""
        self._out: Console | None = None
        self._err: Console | None = None
        self._live: Live | None = None
        self._workspace: Workspace | None = None

    # -------------------------------------------------------- text

    @property
    def out(self) -> Console:
        """stdout."""
        if self._out is None:
            self._out = console(sys.stdout)
        return self._out

    @property
    def err(self) -> Console:
        """stderr."""
        if self._err is None:
            self._err = console(sys.stderr)
        return self._err

    def show(self, *parts: RenderableType) -> None:
        """Print a part of the result; nothing with --json, where the document is the result."""
        if not self.as_json:
            for part in parts:
                self._print(part)

    def _print(self, part: RenderableType) -> None:
        from rich.text import Text

        if self.out.is_terminal or isinstance(part, (str, Text)):
            self.out.print(part, soft_wrap=isinstance(part, str) or not self.out.is_terminal)
            return
        with self.out.capture() as captured:
            self.out.print(part)
        self.out.file.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))

    def note(self, text: str, style: str = "dim") -> None:
        """Print something worth knowing on stderr."""
        if not self.quiet:
            self._said(text, style)

    def warn(self, text: str) -> None:
        """Print something worth acting on, on stderr, even with --quiet."""
        self._said(f"warning: {text}", "yellow")

    def _said(self, text: str, style: str) -> None:
        self.err.print(text, style=style, soft_wrap=not self.err.is_terminal)

    @staticmethod
    def error(text: str) -> None:
        """Print what went wrong on stderr: the message, then the way out."""
        from rich.text import Text

        shown = Text()
        for number, line in enumerate(text.splitlines()):
            if number == 0:
                shown.append("error: ", "bold red").append(line + "\n", "bold")
            else:
                shown.append(line + "\n", "green" if line.lstrip().startswith("->") else "")
        console(sys.stderr).print(shown, end="", soft_wrap=True)

    # -------------------------------------------------------- workspace and recipe

    @property
    def root(self) -> Path:
        """The workspace's folder, whether it exists or not."""
        from attune.core.workspace import DEFAULT_FOLDER

        return Path(self.workspace_folder or os.environ.get("ATTUNE_WORKSPACE") or DEFAULT_FOLDER)

    def workspace(self, create: bool = True) -> Workspace:
        """The workspace, opened once; with `create` False one that does not exist is an error that says where it was looked for."""
        from attune.core.workspace import Workspace

        if self._workspace is None:
            root = self.root
            if not create and not root.is_dir():
                from attune.core.errors import RecipeError

                raise RecipeError(
                    f"there is no workspace '{root}'" + (", it is a file" if root.is_file() else ""),
                    place="--workspace",
                    fix="go to the folder where you ran `attune run`, or name its workspace: --workspace FOLDER",
                )
            self._workspace = Workspace(root, listeners=(self.hear,))
        return self._workspace

    def recipe(self, path: str) -> Recipe:
        """The recipe of a file or folder with the --set values, its notices told."""
        from attune.core.recipe import read_recipe

        recipe = read_recipe(path, self.settings)
        for notice in recipe.notices:
            self.note(notice)
        return recipe

    # -------------------------------------------------------- events

    def hear(self, event: dict[str, Any]) -> None:
        """An event of a stage: a line, or the live display."""
        kind, message = event["kind"], event["message"]
        if kind == "run":
            self.run_folder = Path(event["folder"])
        elif kind == "warning":
            self.warn(message)
        elif self.quiet:
            return
        elif kind in ("note", "result"):
            self.note(f"  {message}")
        elif kind == "receipt":
            rows = [" · ".join(f"{name}: {value}" for name, value in row.items()) for row in event.get("rows", [])]
            self.note("\n".join([f"  {message}", *(f"    {row}" for row in rows)]))
        elif kind in ("stage", "progress"):
            from attune.cli.live import Live

            self._live = self._live or Live(self.err)
            self._live.hear(event)

    def end_live(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """End the live display and give the workspace back."""
        self.end_live()
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None


def at_settings(error: AttuneError, settings: tuple[str, ...]) -> AttuneError:
    """The error with the place `--set KEY` where it is about a key that was set on the command line, every one of several."""
    for one in getattr(error, "problems", [error]):
        place = re.sub(r"\[(\d+)\]", r".\1", one.place or "")
        for key in (text.partition("=")[0].strip() for text in settings):
            if place and (place == key or place.startswith(f"{key}.") or key.startswith(f"{place}.")):
                one.place = f"--set {key}" if len(key) > len(place) else f"--set {one.place}"
                break
    return error


UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters (C0 but tab and line feed, DEL, C1) and marks that turn the reading direction: they command a terminal or hide what stands there."""


def harmless(text: str) -> str:
    """The text with every control character and direction mark written out, such as \\x1b, so that data can only be read, never obeyed."""
    return UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What JSON lets stand in a text and a terminal obeys, or no encoding can write."""


def json_text(document: Any, indent: int | None = 1) -> str:
    """JSON that a terminal can show: letters as they are, what commands a terminal or turns the reading direction escaped. It parses to the same document."""
    text = json.dumps(document, indent=indent, ensure_ascii=False, default=str)
    return UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def console(stream: Any) -> Console:
    """A console that prints text as it is: no markup, no emoji, no highlighting, no commands in the text; colours only on a terminal and without NO_COLOR."""
    from rich.console import Console
    from rich.segment import Segment

    class Harmless(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            """Before columns are measured."""
            return super().render_str(harmless(text), **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            """Whatever kind of thing brought the text; the console's own control segments (cursor, colours) stay."""
            for part in super().render(renderable, options):
                yield part if part.control else Segment(harmless(part.text), part.style)

    terminal = hasattr(stream, "isatty") and stream.isatty()
    return Harmless(file=stream, markup=False, emoji=False, highlight=False, width=None if terminal else PLAIN_WIDTH, force_terminal=terminal, legacy_windows=False)
