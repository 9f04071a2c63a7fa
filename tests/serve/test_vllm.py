"""The command line that vLLM would run, what lies in the folder it is given, and that a missing card or program is said."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from attune.core.conversation import template_of
from attune.core.errors import MachineError, Refused
from attune.core.events import Events
from attune.core.recipe import LogKeys, ServeKeys
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages import serve
from attune.stages.serve import vllm
from attune.stages.serve.protocol import url_of
from tests import writers


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Workspace(tmp_path_factory.mktemp("vllm") / "space")
    writers.release(made, writers.base(tmp_path_factory.mktemp("base")), 1)
    yield made
    made.close()


def test_the_command_line(tmp_path: Path) -> None:
    words = vllm.command("/usr/bin/vllm", tmp_path, "writer", ServeKeys(port=9000, max_running=16), 2048)
    said = dict(zip(words[3::2], words[4::2], strict=False))
    assert words[:3] == ["/usr/bin/vllm", "serve", str(tmp_path)]
    assert (said["--served-model-name"], said["--host"], said["--port"], said["--max-num-seqs"], said["--max-model-len"]) == ("writer", "127.0.0.1", "9000", "16", "2048")
    assert said["--chat-template"] == str(tmp_path / "chat_template.jinja")
    assert "trust" not in " ".join(words)


def test_a_machine_without_it_says_so(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.shutil, "which", lambda _: None)
    with pytest.raises(MachineError, match="not installed"):
        serve.run(space, "writer", ServeKeys(engine="vllm", port=9000), events=Events())
    with pytest.raises(Refused, match="port"):
        serve.run(space, "writer", ServeKeys(engine="vllm", port=0), events=Events())


def test_what_is_started_gets_a_whole_model_and_the_token_in_its_environment(space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    port = standing_in(tmp_path, monkeypatch)
    facts: list[dict[str, Any]] = []

    def announced(given: dict[str, Any]) -> None:
        assert (tmp_path / "ready").exists(), "it is announced before it answers"
        facts.append(given)
        os.kill(os.getpid(), signal.SIGTERM)

    serve.run(space, "writer", ServeKeys(engine="vllm", port=port), events=Events(), announce=announced)
    words, token = json.loads((tmp_path / "said.json").read_text())
    assert token == facts[0]["token"]
    assert token not in words
    assert [one["url"] for one in facts] == [f"http://127.0.0.1:{port}"]
    folder = Path(words[2])
    release = space.ledger.approved("writer")
    assert release is not None
    specialist = open_release(space, release)
    assert (folder / "chat_template.jinja").read_text() == template_of(specialist)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    assert not (folder / "adapter_config.json").exists()
    import torch

    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(whole(input_ids=ids).logits, specialist.model.body(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize(("end", "told"), [("3", "ended with 3"), ("2", "ended with 2"), ("-2", None), ("130", None), ("143", None)])
def test_an_end_that_was_asked_for_is_no_error(space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, told: str | None) -> None:
    port = standing_in(tmp_path, monkeypatch)
    monkeypatch.setenv("END", end)
    facts: list[dict[str, Any]] = []
    with pytest.raises(MachineError, match=told) if told else nullcontext():
        serve.run(space, "writer", ServeKeys(engine="vllm", port=port), events=Events(), announce=facts.append)
    assert facts == [], "it never answered"


def test_settings_that_it_would_not_obey_are_refused_by_name(space: Workspace) -> None:
    keys = ServeKeys(engine="vllm", port=9000, allowed_hosts=["attune.example"], log=LogKeys(sample=0.5, retention_days=30), max_running=4)
    with pytest.raises(Refused, match=r"serve\.allowed_hosts, serve\.log\.sample are settings"):
        serve.run(space, "writer", keys, events=Events())


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert url_of("::1", 9000) == "http://[::1]:9000"
    assert url_of("127.0.0.1", 9000) == "http://127.0.0.1:9000"


STAND_IN = """
import http.server, json, os, pathlib, signal, sys
folder = pathlib.Path(FOLDER)
end = os.environ.get("END")
if end is not None and int(end) < 0:
    signal.signal(-int(end), signal.SIG_DFL)
    os.kill(os.getpid(), -int(end))
if end is not None:
    sys.exit(int(end))
json.dump([sys.argv, os.environ["VLLM_API_KEY"]], open(folder / "said.json", "w"))
asked = []
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        if len(asked) > 1:
            (folder / "ready").touch()
        self.send_response(200 if self.path == "/health" and len(asked) > 1 else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


def standing_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A program in vLLM's place that writes down what it was given and is ready when asked for the second time; or ends at once as END says."""
    program = folder / "vllm"
    program.write_text(f"#!{sys.executable}\n" + STAND_IN.replace("FOLDER", repr(str(folder))))
    program.chmod(0o755)
    monkeypatch.setattr(vllm, "require_vllm", lambda: str(program))
    monkeypatch.setattr(vllm, "ASK_EVERY", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
