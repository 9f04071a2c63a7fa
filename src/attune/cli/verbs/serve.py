"""`attune serve`: the approved release over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attune.cli.screen import Screen, json_text
from attune.cli.verb import LIVE, verb

if TYPE_CHECKING:
    from attune.core.contracts import Task


@verb(
    order=80,
    panel=LIVE,
    settings=True,
    examples=(
        ("attune serve claims", "on this machine only, with a generated token"),
        ("attune serve claims --port 0", "on any free port"),
        ("attune serve claims --set serve.log.sample=0.1", "remember a tenth of the requests"),
    ),
)
def serve(
    screen: Screen,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A specialist's name.", show_default=False)],
    port: Annotated[int | None, typer.Option("--port", "-p", help="Default: the recipe's serve.port (8321); 0 takes a free one.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option("--host", help="Default: the recipe's serve.host (127.0.0.1).", show_default=False)] = None,
    insecure_bind: Annotated[bool, typer.Option("--insecure-bind", help="Allow an address that other machines reach, in clear text.")] = False,
) -> Any:
    """Serve the approved release over HTTP; a newly approved one is taken over without a failed request. Ends with Ctrl-C."""
    import json
    import sys

    from attune.cli.names import recipe_of, require_approved
    from attune.core.runs import recipe_folder
    from attune.stages import serve as stage

    release = require_approved(screen, name)
    workspace = screen.workspace(create=False)
    given = [f"serve.{key}={value}" for key, value in (("port", port), ("host", json.dumps(host) if host else None)) if value is not None]
    recipe = recipe_of(workspace, release, (*screen.settings, *given))
    path, body = "v1/predict", json.dumps({"input": example_of(recipe.task)})
    if "text-out" in recipe.task.traits:
        path, body = "v1/chat/completions", json.dumps({"model": release.specialist, "messages": [{"role": "user", "content": "a question"}]})

    def announce(facts: dict[str, Any]) -> None:
        if screen.as_json:
            shown = {key: value for key, value in facts.items() if key != "token"}
            sys.stdout.write(json_text({"specialist": release.specialist, **shown}, None) + "\n")
            sys.stdout.flush()
            return
        screen.show(
            f"{release.specialist} v{facts['version']} answers at {facts['url']}",
            f"  token   {facts['token_file']}",
            f"  pages   {facts['url']}/openapi.json · /readyz · /metrics",
            f"  try     curl -s {facts['url']}/{path} -H \"Authorization: Bearer $(cat '{facts['token_file']}')\" -H 'Content-Type: application/json' -d '{body}'",
            "  Ctrl-C finishes what was accepted and ends",
        )

    stage.run(workspace, release.specialist, recipe.keys.serve, insecure_bind=insecure_bind, base_folder=recipe_folder(workspace, release), announce=announce)
    return None


def example_of(task: Task) -> Any:
    """An item that `/v1/predict` takes: a text, or an object where a task needs more than one."""
    asked = [role for role in task.roles if not role.target and role.required] or [role for role in task.roles if not role.target][:1]
    item = {role.name: {"COLUMN": 1} if role.type == "features" else f"a {role.name}" for role in asked}
    [first, *more] = item.values()
    return item if more or not isinstance(first, str) else first
