"""The command line that vLLM would run, what lies in the folder it is given, that the folder is proven, and that a missing card or program is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.commit import committed_folder
from attune.core.conversation import template_of
from attune.core.errors import IntegrityError, MachineError, Refused
from attune.core.events import Events
from attune.core.exporting import certificate_of
from attune.core.recipe import LogKeys, ServeKeys
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages import register, serve
from attune.stages.serve import vllm
from attune.stages.serve.protocol import url_of
from attune.testing.export_faults import FAULTS, planted
from tests import releases, speakers, writers


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
    assert said["--dtype"] == vllm.FORM["dtype"], "what is served is in the type that was proven"
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


# ---------------------------------------------------------------- the folder is proven


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A workspace and a release whose every fault shows."""
    base = speakers.base_of(tmp_path_factory.mktemp("base") / "llama")
    made = releases.recipe(task={"name": "text_generation", "max_new_tokens": 8}, method={"name": "lora", "rank": 4}, base_model=str(base))
    space = Workspace(tmp_path_factory.mktemp("proven") / "space")
    yield space, releases.release(space, made=made, model=speakers.speaker(base))
    space.close()


@pytest.fixture
def engines(spoken: Any) -> Path:
    """Where the folders for engines lie; empty."""
    shutil.rmtree(spoken[0].root / "engines", ignore_errors=True)
    return Path(spoken[0].root / "engines")


def test_what_is_served_has_its_certificate(spoken: Any, engines: Path) -> None:
    space, release = spoken
    told: list[dict[str, Any]] = []
    folder = vllm.prepare(space, release, None, Events(None, [told.append]))
    found = certificate_of(engines / release.id)
    assert found is not None
    assert folder == engines / release.id / "model"
    assert (found["release"], found["bundle_digest"]) == (release.id, release.bundle_digest)
    assert found["format"]["name"] == "vllm"
    assert (found["rows"], found["golden"]["from"]) == (6, "validation rows")
    assert found["disagreements"] == []
    assert "model/model.safetensors" in found["files"]
    assert found["words"] in told[-1]["message"]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert vllm.prepare(space, release, None, Events()) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before, "it is written once"


def plant(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exporter write what one with this fault would."""
    plug = catalog.load("exports", "vllm")
    write = plug.write

    def broken(self: Any, specialist: Any, bundle: Path, to: Path) -> None:
        write(self, planted(fault, specialist, folder / "other base"), bundle, to)

    monkeypatch.setattr(plug, "write", broken)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_folder_that_answers_otherwise_is_refused(fault: str, spoken: Any, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, release = spoken
    plant(fault, tmp_path, monkeypatch)
    with pytest.raises(IntegrityError, match=r"(?s)format 'vllm' .*nothing was kept"):
        vllm.prepare(space, release, None, Events())
    assert list(engines.iterdir()) == []


def test_an_export_refuses_it_in_the_same_words(spoken: Any, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, release = spoken
    plant("unmerged adapter", tmp_path, monkeypatch)
    with pytest.raises(IntegrityError) as served:
        vllm.prepare(space, release, None, Events())
    with pytest.raises(IntegrityError) as exported:
        register.export(space, release, ["vllm"], tmp_path / "out", Events())
    assert (served.value.what, served.value.fix) == (exported.value.what, exported.value.fix)


def test_vllm_is_not_started_on_what_was_refused(spoken: Any, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, release = spoken
    plant("wrong end token", tmp_path, monkeypatch)
    port = standing_in(tmp_path, monkeypatch)
    with pytest.raises(IntegrityError, match="ends an answer of the tuned model and none of this one"):
        vllm.run(space, release, ServeKeys(engine="vllm", port=port), "token", Events(), None, lambda facts: None)
    assert not (tmp_path / "said.json").exists()


def test_a_folder_without_proof_or_changed_since_is_written_anew(spoken: Any, engines: Path) -> None:
    space, release = spoken
    with committed_folder(engines / release.id) as folder:
        (folder / "config.json").write_text("{}")
    served = vllm.prepare(space, release, None, Events())
    assert not (engines / release.id / "config.json").exists()
    template = (served / "chat_template.jinja").read_text()
    (served / "chat_template.jinja").write_text(template + " ")
    assert certificate_of(engines / release.id) is None
    assert (vllm.prepare(space, release, None, Events()) / "chat_template.jinja").read_text() == template
    assert certificate_of(engines / release.id) is not None


def test_a_release_that_does_not_write_is_refused(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "space")
    with pytest.raises(Refused, match="does not write texts"):
        vllm.prepare(space, releases.release(space), None, Events())
    assert not (space.root / "engines").exists()
    space.close()


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
