"""Pairs through the whole cycle: dpo on a decoder, and a reward model that is served over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.records import Checkpoint, Release, Scorecard
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages import register
from attune.stages.serve import make_app
from attune.testing import tiny_bert, tiny_llama
from tests.cycle.test_specialists import Attune, attune, talk

__all__ = ["attune"]
TOKEN, URL = "t" * 43, "http://127.0.0.1:8321"
TRAIN = "train: {epochs: 2, max_length: 64, batch_size: 16, learning_rate: 0.002, evaluations_per_epoch: 1}\n"


def pairs(path: Path) -> list[tuple[str, str]]:
    """Questions with their answer and one that helps nobody; an answer of its own to each, so that no length tells."""
    rows = talk(120)
    lines = [{"prompt": question, "chosen": answer, "rejected": f"No idea about {question.split()[-1]}."} for question, answer in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return rows


def test_dpo_is_judged_by_what_it_prefers(tmp_path: Path, attune: Attune) -> None:
    rows = pairs(tmp_path / "pairs.jsonl")
    tiny_llama(tmp_path / "base", [text for pair in rows for text in pair])
    (tmp_path / "recipe.yaml").write_text("name: speaker\ntask: {name: text_generation, max_new_tokens: 4}\nbase_model: base\nobjective: dpo\nmethod: lora\ndata: {path: pairs.jsonl}\n" + TRAIN)
    attune("run", "recipe.yaml", "--workspace", "space")
    workspace = Workspace(tmp_path / "space")
    (checkpoint,), (scorecard,) = workspace.ledger.find(Checkpoint), workspace.ledger.find(Scorecard)
    workspace.close()
    assert checkpoint.main_metric == "preference_accuracy"
    assert {"tuned", "longer_answer", "untouched_base"} == set(scorecard.results)
    assert {"preference_accuracy", "token_f1"} == set(scorecard.results["tuned"]) == set(scorecard.results["untouched_base"])
    assert {"preference_accuracy"} == set(scorecard.results["longer_answer"]), "it writes nothing, so its texts have no value"
    assert scorecard.results["tuned"]["preference_accuracy"].value > 0.9


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_a_reward_model_is_served(tmp_path: Path, attune: Attune, base: str) -> None:
    rows = pairs(tmp_path / "pairs.jsonl")
    if base == "encoder":
        tiny_bert(tmp_path / "base")
    else:
        tiny_llama(tmp_path / "base", [text for pair in rows for text in pair])
    (tmp_path / "recipe.yaml").write_text("name: judge\ntask: reward\nbase_model: base\nmethod: full\ndata: {path: pairs.jsonl}\n" + TRAIN)
    attune("run", "recipe.yaml", "--workspace", "space")
    workspace = Workspace(tmp_path / "space")
    (scorecard,), (release,) = workspace.ledger.find(Scorecard), workspace.ledger.find(Release)
    assert scorecard.results["tuned"]["preference_accuracy"].value > 0.9
    assert scorecard.results["untouched_base"]["preference_accuracy"].value == 0.5
    register.promote(workspace, release, actor="test", force=True, reason="a test")
    question = rows[0][0]
    items = [{"prompt": question, "completion": rows[0][1]}, {"prompt": [{"role": "user", "content": question}], "completion": "No idea about this."}]
    task = open_release(workspace, release, base_folder=tmp_path).task
    offline = [one.output for one in open_release(workspace, release, base_folder=tmp_path).predict([task.request(item) for item in items])]
    assert offline[0] > offline[1]
    app = make_app(workspace, "judge", ServeKeys(), token=TOKEN, events=Events(), poll_seconds=3600, base_folder=tmp_path)
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False) as client:
        answer = client.post("/v1/predict", json={"inputs": items})
        assert answer.status_code == 200, answer.text
        assert [one["output"] for one in answer.json()["predictions"]] == pytest.approx(offline, abs=1e-4)
        refused = client.post("/v1/predict", json={"input": {"prompt": question}})
        assert refused.status_code == 422
        assert "completion" in refused.json()["field"]
    workspace.close()
