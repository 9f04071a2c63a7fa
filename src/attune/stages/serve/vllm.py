"""vLLM as the engine (`serve.engine: vllm`): the approved release written out as one model and proven like any export, and `vllm serve`
started on it.

vLLM is a service of its own with its own torch, so it is started as a program, never imported. It answers OpenAI's API itself, with our token;
request log, feedback, hot swap and the Host and Origin checks are ours and are not there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.contracts import Export
from attune.core.errors import MachineError, Refused
from attune.core.events import Events
from attune.core.exporting import Witness, certificate_of, form_of
from attune.core.recipe import ServeKeys
from attune.core.records import Release
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages.serve.protocol import url_of

PROGRAM = "vllm"
TOKEN_VARIABLE = "VLLM_API_KEY"
"""The token travels in the environment: a command line can be read by every user of the machine."""
GREEDY = '{"temperature": 0}'
"""What a request gets that names no temperature: what was graded."""
FORM: dict[str, Any] = {"name": "vllm", "merge": True, "dtype": "float32"}
"""The export that is served, with the keys that the command line obeys."""
MODEL, TEMPLATE = "model", "chat_template.jinja"
OURS = ("allowed_hosts", "max_body_bytes", "max_text_chars", "max_items", "max_waiting", "max_adapters", "log")
"""Keys of our own endpoint that vLLM has nothing for."""
ENDED = (0, -signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT)
"""Exit codes after it was told to stop; Ctrl-C reaches it as well as us."""
ASK_EVERY = 0.5
"""Seconds between two questions whether it answers."""


def command(program: str, folder: Path, name: str, keys: ServeKeys, length: int | None = None) -> list[str]:
    """The command line of an endpoint on a model's folder.

    Args:
        program: path of vLLM's program.
        folder: as `prepare` wrote it.
        name: what requests call the model.
        length: tokens of prompt and answer together; None: what the model's configuration says.
    """
    words = [program, "serve", str(folder), "--served-model-name", name, "--host", keys.host, "--port", str(keys.port)]
    words += ["--dtype", FORM["dtype"], "--chat-template", str(folder / TEMPLATE), "--generation-config", "vllm", "--override-generation-config", GREEDY]
    return [*words, "--max-num-seqs", str(keys.max_running), *(["--max-model-len", str(length)] if length else [])]


def prepare(workspace: Workspace, release: Release, base_folder: Path | None, events: Events) -> Path:
    """The folder of the release as one plain model with its chat template, written once and kept; an adapter is merged.

    It is the export `vllm`, so before it is kept it answers golden rows as the release does, and its certificate lies beside it. What lies
    there without one, or was changed since, is written anew.

    Raises:
        IntegrityError: what was written answers differently, or there are no rows to prove it on; nothing of it is kept.
        Refused: the release does not write texts.
    """
    target = workspace.root / "engines" / release.id
    plug: Export = catalog.build("exports", FORM)
    known = certificate_of(target)
    if known is None or any(known.get(name) != value for name, value in form_of(release, plug).items()):
        specialist = open_release(workspace, release, base_folder=base_folder)
        if "text-out" not in specialist.task.traits:
            raise Refused(f"task '{specialist.task.name}' does not write texts", place="serve.engine", fix="set serve.engine: own")
        shutil.rmtree(target, ignore_errors=True)
        known = Witness.of(workspace, release, specialist).write(plug, target)
    events.note(f"the folder for vLLM is {known['words']}", release=release.id, folder=str(target))
    return target / MODEL


def require_vllm() -> str:
    """Path of the program; raises MachineError where it or a graphics card is missing."""
    import torch

    program = shutil.which(PROGRAM)
    if program is None:
        raise MachineError("vLLM is not installed", place="serve.engine", fix="install vLLM in an environment of its own and put its `vllm` on the PATH, or set serve.engine: own")
    if not torch.cuda.is_available() and not Path("/dev/nvidiactl").exists():
        raise MachineError("vLLM needs a graphics card, and this machine shows none", place="serve.engine", fix="set serve.engine: own")
    return program


def require_no_more(keys: ServeKeys) -> None:
    """Refuse settings that vLLM would not obey; raises Refused that names them. A release carries its whole recipe, so one counts as set where it is not its default."""
    own, default = keys.model_dump(mode="json"), ServeKeys().model_dump(mode="json")
    found: list[str] = []
    for name in OURS:
        inner = own[name] if isinstance(own[name], dict) else None
        found += [name] * (inner is None and own[name] != default[name])
        found += [f"{name}.{part}" for part in inner or () if own[name][part] != default[name][part]]
    if found:
        one = len(found) == 1
        raise Refused(
            f"{', '.join(f'serve.{name}' for name in found)} {'is a setting' if one else 'are settings'} of our own endpoint, which vLLM does not obey",
            place="serve.engine",
            fix=f"leave {'it' if one else 'them'} at the default, or set serve.engine: own",
        )


def _answers(url: str) -> bool:
    """Whether vLLM is ready; asked without any proxy."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5) as reply:
            return int(reply.status) == 200
    except OSError:
        return False


def run(
    workspace: Workspace,
    release: Release,
    keys: ServeKeys,
    token: str,
    events: Events,
    base_folder: Path | None,
    announce: Callable[[dict[str, Any]], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, which vLLM is told of; returns when it ended. What was started is announced once it answers.

    Raises:
        IntegrityError: what would be served does not answer as the release does.
        MachineError: vLLM or a graphics card is missing, or vLLM ended with an error.
        Refused: port 0, settings that vLLM does not obey, or the release does not write.
    """
    require_no_more(keys)
    if keys.port == 0:
        raise Refused("vLLM does not say which free port it took", place="serve.port", fix="give a port")
    program = require_vllm()
    folder = prepare(workspace, release, base_folder, events)
    words = command(program, folder, release.specialist, keys)
    events.note("vLLM is started: " + " ".join(words[1:]), release=release.id)
    with ExitStack() as restored:
        child = subprocess.Popen(words, env={**(os.environ if environment is None else environment), TOKEN_VARIABLE: token})
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, lambda *_: child.terminate())
            restored.callback(signal.signal, number, before)
        url = url_of(keys.host, keys.port)
        while child.poll() is None and not _answers(url):
            time.sleep(ASK_EVERY)
        if child.poll() is None:
            announce({"url": url})
        ended = child.wait()
    if ended not in ENDED:
        raise MachineError(f"vLLM ended with {ended}", place="serve.engine", fix="its own lines above say why; or set serve.engine: own")
