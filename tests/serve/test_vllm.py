"""The command line that vLLM would run, what lies in the folder it is given, and that a missing card or program is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from attune.core.conversation import template_of
from attune.core.errors import MachineError, Refused
from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages import serve
from attune.stages.serve import vllm
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
    """A program in vLLM's place writes down what it was given, and ends."""
    from transformers import AutoModelForCausalLM

    program = tmp_path / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\njson.dump([sys.argv, os.environ['VLLM_API_KEY']], open({str(tmp_path / 'said.json')!r}, 'w'))\nsys.exit(int(os.environ.get('END', 0)))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(vllm, "require_vllm", lambda: str(program))
    facts: list[dict[str, Any]] = []
    serve.run(space, "writer", ServeKeys(engine="vllm", port=9000), events=Events(), announce=facts.append)
    words, token = json.loads((tmp_path / "said.json").read_text())
    assert token == facts[0]["token"]
    assert token not in words
    assert facts[0]["url"] == "http://127.0.0.1:9000"
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
    monkeypatch.setenv("END", "3")
    with pytest.raises(MachineError, match="ended with 3"):
        serve.run(space, "writer", ServeKeys(engine="vllm", port=9000), events=Events())
