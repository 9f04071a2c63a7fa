"""The program: finds the verbs, runs one, and turns whatever goes wrong into a message and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from attune.cli import verbs
from attune.cli.screen import Screen, at_settings, json_text
from attune.core.errors import AttuneError, MachineError, RecipeError, nearest

SYNONYMS = {
    "new": "init",
    "create": "init",
    "start": "serve",
    "deploy": "serve",
    "api": "serve",
    "validate": "check",
    "lint": "check",
    "prepare": "curate",
    "preprocess": "curate",
    "data": "curate",
    "train": "finetune",
    "fit": "finetune",
    "tune": "finetune",
    "sft": "finetune",
    "eval": "grade",
    "evaluate": "grade",
    "test": "grade",
    "benchmark": "grade",
    "publish": "register",
    "release": "register",
    "approve": "promote",
    "undo": "rollback",
    "revert": "rollback",
    "monitor": "watch",
    "drift": "watch",
    "infer": "predict",
    "classify": "predict",
    "chat": "predict",
    "ask": "predict",
    "ls": "list",
    "plugs": "list",
    "plugins": "list",
    "info": "show",
    "describe": "show",
    "inspect": "show",
    "save": "export",
    "convert": "export",
    "env": "doctor",
    "diagnose": "doctor",
}
"""What people type -> the verb they mean."""

UNEXPECTED = 70
INTERRUPTED = 130
TERMINATED = 143
ClickError: Any = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException")


class Verbs(TyperGroup):
    """The verbs as a group that knows what people type in other tools."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb, or an error that names the one that was meant."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            said = args[0]
            meant = SYNONYMS.get(said.lower()) or nearest(said, [*self.commands, *SYNONYMS])
            meant = SYNONYMS.get(meant or "", meant)
            fix = f"did you mean `attune {meant}`? (`attune {meant} --help`)" if meant else "`attune --help` lists the verbs"
            raise RecipeError(f"there is no verb '{said}'", place="attune", fix=fix)
        return super().resolve_command(ctx, args)


def make_app() -> typer.Typer:
    """The typer application, put together from the files in `verbs/`."""
    app = typer.Typer(
        name="attune",
        cls=Verbs,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="From a general model and your own rows to a specialist that is proven better, shipped and kept good.",
        epilog="[bold]Three commands from a CSV to a verdict:[/bold]\n\nattune init claims --data tickets.csv   ·   attune check claims   ·   attune run claims",
    )

    @app.callback(invoke_without_command=True)
    def attune(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        if version:
            typer.echo(json_text({"version": _version()}) if as_json else _version())
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())

    found = []
    for module in pkgutil.iter_modules(verbs.__path__):
        loaded = importlib.import_module(f"{verbs.__name__}.{module.name}")
        found += [(one.verb["order"], module.name, one) for one in vars(loaded).values() if callable(one) and hasattr(one, "verb")]
    for _, name, work in sorted(found, key=lambda one: one[:2]):
        facts = work.verb
        examples = "\n\n".join(f"[cyan]{command}[/cyan]  {meaning}" for command, meaning in facts["examples"])
        app.command(name, rich_help_panel=facts["panel"], epilog=f"[bold]Examples[/bold]\n\n{examples}")(work)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code; never lets a traceback out."""
    arguments = _json_behind_the_verb(list(sys.argv[1:] if arguments is None else arguments))
    Screen.current = None
    with warnings.catch_warnings(), _terminable() as ended:
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        code = _guarded(arguments)
        return TERMINATED if ended and code == INTERRUPTED else code


def _json_behind_the_verb(arguments: list[str]) -> list[str]:
    """`attune --json list` means `attune list --json`."""
    place = next((number for number, one in enumerate(arguments) if not one.startswith("-")), None)
    if place is None or "--json" not in arguments[:place]:
        return arguments
    return [*(one for one in arguments[:place] if one != "--json"), arguments[place], "--json", *(one for one in arguments[place + 1 :])]


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM ends a command as Ctrl-C does: live display closed, a word on how to go on. Yields the signals that came."""
    came: list[int] = []

    def end(number: int, _frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(make_app()).main(args=arguments, prog_name="attune", standalone_mode=False)
        sys.stdout.flush()
        return _interrupted(as_json) if code == INTERRUPTED else code if isinstance(code, int) else 0
    except AttuneError as error:
        if Screen.current is not None:
            at_settings(error, Screen.current.settings)
        return _tell(error.as_json(), str(error), error.exit_code, as_json)
    except typer.Exit as error:
        return int(error.exit_code)
    except ClickError as error:
        return _usage(error, arguments, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except MemoryError:
        lack = MachineError("the machine's memory is used up", fix="lower train.micro_batch_size or train.max_length, or close other programs")
        return _tell(lack.as_json(), str(lack), lack.exit_code, as_json)
    except OSError as error:
        return _system(error, as_json)
    except Exception as error:
        return _unexpected(error, as_json)


def _tell(document: dict[str, Any], text: str, code: int, as_json: bool) -> int:
    if Screen.current is not None:
        Screen.current.close()
    if as_json:
        sys.stdout.write(json_text(document) + "\n")
        sys.stdout.flush()
    else:
        Screen.error(text)
    return code


def _interrupted(as_json: bool) -> int:
    text = "stopped; the same command goes on where it stands"
    return _tell({"error": "Interrupted", "what": text, "exit_code": INTERRUPTED}, text, INTERRUPTED, as_json)


def _usage(error: Any, arguments: list[str], as_json: bool) -> int:
    """A command line that cannot be read; an option's wrong value is named, which the parser's own message leaves out."""
    options = getattr(getattr(error, "param", None), "opts", [])
    values = [after for before, after in pairwise(arguments) if before in options]
    said = f" (given: '{values[0]}')" if values else ""
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "attune"
    wrong = RecipeError(error.format_message().rstrip(".") + said, place=path, fix=f"`{path} --help` shows what it takes, with examples")
    return _tell(wrong.as_json(), str(wrong), wrong.exit_code, as_json)


def _system(error: OSError, as_json: bool) -> int:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        lack = MachineError(f"the disk is full{f': {error.filename}' if error.filename else ''}", fix="free space, then run the same command again: it goes on where it stands")
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        lack = MachineError(f"no permission: {error.strerror}", place=str(error.filename), fix="mend the permissions, or use another folder (--workspace FOLDER)")
    else:
        return _unexpected(error, as_json)
    return _tell(lack.as_json(), str(lack), lack.exit_code, as_json)


def _unexpected(error: Exception, as_json: bool) -> int:
    """A fault of ours: a short message, and the full traceback in a file."""
    text = "".join(traceback.format_exception(error))
    log: Path | None = None
    folder = Screen.current.run_folder if Screen.current is not None else None
    try:
        handle, name = tempfile.mkstemp(prefix="error-" if folder else "attune-error-", suffix=".txt", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(f"attune {_version()} · python {sys.version.split()[0]} · {' '.join(sys.argv)}\n\n{text}")
        log = Path(name)
    except OSError as failed:
        text = f"{text}\n(not saved: {failed})"
    last = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    fix = f"the full report is in {log}; it is a fault in Attune or in a plug: please send it along" if log else text
    wrong = AttuneError(f"this should not have happened: {last[:300]}", place="attune", fix=fix)
    return _tell({**wrong.as_json(), "error": "Unexpected", "exit_code": UNEXPECTED, "log": str(log)}, str(wrong), UNEXPECTED, as_json)


def _version() -> str:
    from attune import __version__

    return __version__
