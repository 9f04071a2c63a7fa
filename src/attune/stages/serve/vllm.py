"""vLLM as the engine (`serve.engine: vllm`): the approved release written out as one model, and `vllm serve` started on it.

vLLM is a service of its own with its own torch, so it is started as a program, never imported. It answers OpenAI's API itself, with our token;
request log, feedback, hot swap and the Host and Origin checks are ours and are not there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.commit import committed_folder, is_valid
from attune.core.contracts import Export
from attune.core.conversation import template_of
from attune.core.errors import MachineError, Refused
from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.records import Release
from attune.core.releases import open_release, release_folder
from attune.core.workspace import Workspace

PROGRAM = "vllm"
TOKEN_VARIABLE = "VLLM_API_KEY"
"""The token travels in the environment: a command line can be read by every user of the machine."""
GREEDY = '{"temperature": 0}'
"""What a request gets that names no temperature: what was graded."""
TEMPLATE = "chat_template.jinja"


def command(program: str, folder: Path, name: str, keys: ServeKeys, length: int | None = None) -> list[str]:
    """The command line of an endpoint on a model's folder.

    Args:
        program: path of vLLM's program.
        folder: as `prepare` wrote it.
        name: what requests call the model.
        length: tokens of prompt and answer together; None: what the model's configuration says.
    """
    words = [program, "serve", str(folder), "--served-model-name", name, "--host", keys.host, "--port", str(keys.port)]
    words += ["--chat-template", str(folder / TEMPLATE), "--generation-config", "vllm", "--override-generation-config", GREEDY]
    return [*words, "--max-num-seqs", str(keys.max_running), *(["--max-model-len", str(length)] if length else [])]


def prepare(workspace: Workspace, release: Release, base_folder: Path | None) -> Path:
    """The release as one plain model with its chat template, written once and kept; an adapter is merged."""
    target = workspace.root / "engines" / release.id
    if is_valid(target):
        return target
    specialist = open_release(workspace, release, base_folder=base_folder)
    if "text-out" not in specialist.task.traits:
        raise Refused(f"task '{specialist.task.name}' does not write texts", place="serve.engine", fix="set serve.engine: own")
    plug: Export = catalog.build("exports", {"name": "transformers", "merge": hasattr(specialist.model.body, "peft_config")})
    with committed_folder(target) as folder:
        plug.write(specialist, release_folder(workspace, release), folder)
        (folder / TEMPLATE).write_text(template_of(specialist), encoding="utf-8")
    return target


def require_vllm() -> str:
    """Path of the program; raises MachineError where it or a graphics card is missing."""
    import torch

    program = shutil.which(PROGRAM)
    if program is None:
        raise MachineError("vLLM is not installed", place="serve.engine", fix="install vLLM in an environment of its own and put its `vllm` on the PATH, or set serve.engine: own")
    if not torch.cuda.is_available() and not Path("/dev/nvidiactl").exists():
        raise MachineError("vLLM needs a graphics card, and this machine shows none", place="serve.engine", fix="set serve.engine: own")
    return program


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
    """Serve until SIGTERM or SIGINT, which vLLM is told of; returns when it ended.

    Raises:
        MachineError: vLLM or a graphics card is missing, or vLLM ended with an error.
        Refused: port 0, or the release does not write.
    """
    if keys.port == 0:
        raise Refused("vLLM does not say which free port it took", place="serve.port", fix="give a port")
    program = require_vllm()
    folder = prepare(workspace, release, base_folder)
    words = command(program, folder, release.specialist, keys)
    events.note("vLLM is started: " + " ".join(words[1:]), release=release.id)
    with ExitStack() as restored:
        child = subprocess.Popen(words, env={**(os.environ if environment is None else environment), TOKEN_VARIABLE: token})
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, lambda *_: child.terminate())
            restored.callback(signal.signal, number, before)
        announce({"url": f"http://{keys.host}:{keys.port}"})
        ended = child.wait()
    if ended not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise MachineError(f"vLLM ended with {ended}", place="serve.engine", fix="its own lines above say why; or set serve.engine: own")
