"""The command line: one thin file per verb in `verbs/`; the only room that prints."""


def main() -> None:
    """Entry point of the `attune` command."""
    from attune.cli.program import run

    raise SystemExit(run())
