"""Formats for models that write texts: honest exports pass, planted faults are refused, what cannot be written is refused by name."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attune import lifecycle
from attune.core import catalog
from attune.core.certificate import golden_file, replayed
from attune.core.commit import seal
from attune.core.conversation import prompt_ids, render
from attune.core.errors import AttuneError, DataError, IntegrityError, PlugError
from attune.core.events import Events
from attune.core.models import load_body, resolve_base
from attune.core.parity import constants_of, differences, voice_of
from attune.core.recipe import make_recipe
from attune.core.specialist import Specialist
from attune.core.workspace import Workspace
from attune.stages import register
from attune.testing.export_faults import FAULTS, planted
from attune.testing.models import CHAT_TEMPLATE, tiny_bert
from tests import releases, speakers

FORMATS: list[Any] = [
    "adapter",
    "merged",
    {"name": "merged", "dtype": "float16"},
    {"name": "merged", "dtype": "bfloat16"},
    "vllm",
    {"name": "vllm", "merge": False},
    {"name": "gguf", "weights": "f32"},
    "gguf",
    {"name": "gguf", "weights": "q8_0"},
    "ollama",
]


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Specialist:
    return speakers.speaker(speakers.base_of(tmp_path_factory.mktemp("base") / "llama"))


def written(spec: Any, specialist: Specialist, folder: Path) -> Any:
    folder.mkdir()
    plug = catalog.build("exports", spec)
    plug.write(specialist, folder.parent / "no bundle", folder)
    return plug


def wrong(plug: Any, folder: Path, good: Specialist) -> list[str]:
    """Why it is refused."""
    try:
        return [one["why"] for one in replayed(plug, folder, good, voice_of(good), [], speakers.ROWS)["disagreements"]]
    except AttuneError as error:
        return [str(error)]


@pytest.mark.parametrize("spec", FORMATS, ids=str)
def test_honest_exports_pass(spec: Any, specialist: Specialist, tmp_path: Path) -> None:
    plug = written(spec, specialist, tmp_path / "out")
    assert wrong(plug, tmp_path / "out", specialist) == []
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))


def test_a_replay_draws_nothing_on_the_screen(specialist: Specialist, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plug = written("gguf", specialist, tmp_path / "out")
    capfd.readouterr()
    plug.voice(tmp_path / "out")
    assert "tensors" not in capfd.readouterr().err


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("spec", ["adapter", "merged", {"name": "gguf", "weights": "q8_0"}], ids=str)
def test_planted_faults_are_refused(spec: Any, fault: str, specialist: Specialist, tmp_path: Path) -> None:
    faulty = planted(fault, specialist, tmp_path / "base")
    plug = written(spec, faulty, tmp_path / "out")
    assert wrong(plug, tmp_path / "out", specialist)


TOOLS = [{"name": "look"}]
CALLS: list[dict[str, Any]] = [
    {"row_id": "call", "prompt": [{"role": "user", "content": "Where is my parcel?"}], "tools": TOOLS, "completion": "Here."},
    {
        "row_id": "called",
        "prompt": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"entry": 3}}]}, {"role": "tool", "content": "there"}],
        "tools": TOOLS,
        "completion": "There.",
    },
    {"row_id": "text", "prompt": [{"role": "segment", "content": "Once upon"}], "completion": " a time"},
]
KNOWS = "{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHAT_TEMPLATE.replace(
    "{{ m['content'] }}", "{{ m['content'] }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, KNOWS], ids=["into the turns", "by the template"])
def test_functions_are_written_as_in_training(template: str, tmp_path: Path) -> None:
    """The voices of model and export read rows with functions, calls and segments as the task does; an export that loses functions is refused."""
    own = speakers.speaker(speakers.base_of(tmp_path / "base", chat_template=template), longest=240)
    asked = [prompt_ids(own, row["prompt"], 240, row.get("tools"))[0] for row in CALLS]
    assert [voice_of(own).prompt(row["prompt"], row.get("tools")) for row in CALLS] == asked
    told = [one.output for one in own.predict(CALLS)]
    for number, spec in enumerate(("merged", {"name": "gguf", "weights": "f32"})):
        plug = written(spec, own, tmp_path / str(number))
        assert [one["why"] for one in replayed(plug, tmp_path / str(number), own, voice_of(own), [], CALLS)["disagreements"]] == []
        assert [one.output for one in plug.replay(tmp_path / str(number), CALLS)] == told
    if template is KNOWS:
        edit(tmp_path / "0" / "chat_template.jinja", "{% if tools %}{{ tools | tojson }}", "{% if tools %}")
        assert any("other tokens" in one["why"] for one in replayed(catalog.build("exports", "merged"), tmp_path / "0", own, voice_of(own), [], CALLS)["disagreements"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _settings(folder: Path) -> None:
    said = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**said, "eos_token_id": 7}))


def _other_base(folder: Path) -> None:
    shutil.rmtree(folder / "base")
    speakers.base_of(folder / "base", seed=9)


def _lost_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


EDITS: dict[str, tuple[Any, Any]] = {
    "merged: template file": ("merged", lambda folder: edit(folder / "chat_template.jinja", "assistant\n", "assistant")),
    "merged: end token": ("merged", _settings),
    "merged: norm constant": ("merged", lambda folder: edit(folder / "config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')),
    "vllm: template file": ("vllm", lambda folder: edit(folder / "model" / "chat_template.jinja", "assistant\n", "assistant")),
    "adapter: base": ("adapter", _other_base),
    "adapter: half of it": ("adapter", _lost_weights),
    "ollama: template": ("ollama", lambda folder: edit(folder / "Modelfile", "assistant\n", "assistant ")),
    "ollama: stop": ("ollama", lambda folder: edit(folder / "Modelfile", 'stop "<|end|>"', 'stop "<|start|>"')),
    "ollama: no file": ("ollama", lambda folder: edit(folder / "Modelfile", "FROM ./model.gguf", "FROM llama3")),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_files_are_refused(name: str, specialist: Specialist, tmp_path: Path) -> None:
    spec, change = EDITS[name]
    plug = written(spec, specialist, tmp_path / "out")
    change(tmp_path / "out")
    assert wrong(plug, tmp_path / "out", specialist)


def test_a_whole_model_has_no_adapter_to_leave(tmp_path: Path) -> None:
    whole = speakers.speaker(speakers.base_of(tmp_path / "llama"), "full")
    for spec in ("adapter", {"name": "vllm", "merge": False}):
        with pytest.raises(PlugError, match="leaves no PEFT adapter"):
            catalog.build("exports", spec).write(whole, tmp_path, tmp_path)
    assert wrong(written("merged", whole, tmp_path / "out"), tmp_path / "out", whole) == []


def test_generation_settings_are_those_of_grading(specialist: Specialist, tmp_path: Path) -> None:
    """A base's own temperature or penalty would change what vLLM answers."""
    written("merged", specialist, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said["do_sample"] is False
    assert said["max_new_tokens"] == 8
    assert said["eos_token_id"] == sorted(voice_of(specialist).stops)
    assert "repetition_penalty" not in said


# ---------------------------------------------------------------- vLLM


def test_vllm_serves_several_adapters_of_one_base(specialist: Specialist, tmp_path: Path) -> None:
    base = specialist.base.folder
    other = speakers.speaker(base, {"name": "lora", "rank": 12})
    written("adapter", other, tmp_path / "second")
    seal(tmp_path / "second")
    spec = {"name": "vllm", "merge": False, "adapters": [str(tmp_path / "second")]}
    plug = written(spec, specialist, tmp_path / "out")
    command = (tmp_path / "out" / "serve.sh").read_text()
    assert "vllm serve ./model" in command
    assert "--lora-modules speaker=./adapters/speaker second=./adapters/second" in command
    assert "--max-lora-rank 16" in command
    assert "--chat-template ./model/chat_template.jinja" in command
    assert not (tmp_path / "out" / "adapters" / "second" / "base").exists()
    assert wrong(plug, tmp_path / "out", specialist) == []
    stranger = speakers.speaker(speakers.base_of(tmp_path / "stranger", seed=4))
    with pytest.raises(PlugError, match="tuned on another base"):
        written(spec, stranger, tmp_path / "no")
    with pytest.raises(PlugError, match="need the base unmerged"):
        written({**spec, "merge": True}, specialist, tmp_path / "neither")


# ---------------------------------------------------------------- GGUF


def family(kind: str, folder: Path) -> Path:
    """A small model of a family, with weights off their start, and a byte-level tokenizer."""
    import torch
    import transformers

    speakers.tiny_llama(folder, speakers.TEXTS * 3, chat_template=speakers.CHAT_TEMPLATE)
    size = json.loads((folder / "config.json").read_text())["vocab_size"] + 8  # room that no token fills
    shape: dict[str, Any] = {"vocab_size": size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15}
    shape |= {"max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1}
    made: dict[str, Any] = {
        "llama": lambda: transformers.LlamaConfig(
            **shape,
            rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        ),
        "mistral": lambda: transformers.MistralConfig(**shape, sliding_window=None),
        "qwen2": lambda: transformers.Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen3": lambda: transformers.Qwen3Config(**shape, head_dim=32),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=size, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1, initializer_range=0.15),
        "gemma": lambda: transformers.GemmaConfig(**shape, head_dim=16),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**{name: value for name, value in shape.items() if name != "num_key_value_heads"}),
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        body = transformers.AutoModelForCausalLM.from_config(made[kind]())
        with torch.no_grad():
            for parameter in body.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    body.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma"])
def test_families_of_gguf(kind: str, tmp_path: Path) -> None:
    whole = speakers.speaker(family(kind, tmp_path / "base"), "full")
    plug = written("gguf", whole, tmp_path / "out")
    assert wrong(plug, tmp_path / "out", whole) == []


ENDS: dict[str, tuple[str, str | None, list[int], str]] = {
    "turns that end with another token": (CHAT_TEMPLATE, "</s>", [1, 3], "its end tokens are 0, 3, the tuned model's are 1, 3"),
    "turns that end with the end token": (CHAT_TEMPLATE.replace("<|end|>", "</s>"), "</s>", [1], "its end tokens are 0, 1, the tuned model's are 1"),
    "no end token but that of turns": (CHAT_TEMPLATE, None, [3], "its end tokens are 0, 3, the tuned model's are 3"),
}


@pytest.mark.parametrize("name", ENDS)
def test_end_tokens_that_a_gguf_file_names(name: str, tmp_path: Path) -> None:
    """llama.cpp ends at tokens that it knows by their texts; what obeys the file ends only at those that the file names."""
    from attune.catalog.exports._gguf_voice import constants_of_file, metadata_of, read_back

    template, end, ids, told = ENDS[name]
    own = speakers.speaker(speakers.base_of(tmp_path / "base", chat_template=template))
    own.tokenizer.eos_token = end
    plug = written("gguf", own, tmp_path / "out")
    assert constants_of_file(metadata_of(tmp_path / "out" / "model.gguf"))["end_tokens"] == ids
    assert wrong(plug, tmp_path / "out", own) == []
    faulty = planted("wrong end token", own, tmp_path / "no base")
    plug = written("gguf", faulty, tmp_path / "faulty")
    assert told in wrong(plug, tmp_path / "faulty", own)
    knowing = read_back(tmp_path / "faulty" / "model.gguf")
    knowing.stops = voice_of(own).stops
    assert differences(voice_of(own), knowing) == [told]


def test_other_families_and_settings_are_refused_by_name(tmp_path: Path) -> None:
    whole = speakers.speaker(family("gpt_neox", tmp_path / "neox"), "full")
    with pytest.raises(PlugError, match="family 'gpt_neox'"):
        written("gguf", whole, tmp_path / "out")
    whole = speakers.speaker(family("mistral", tmp_path / "mistral"), "full")
    whole.model.body.config.sliding_window = 16
    whole.model.body.config.hidden_act = "gelu"
    with pytest.raises(PlugError, match="activation gelu, attention within a sliding window"):
        written("gguf", whole, tmp_path / "out2")


def test_tokenizers_that_llama_cpp_lacks_are_refused_by_name(specialist: Specialist) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from attune.catalog.exports._gguf_tokens import table_of

    def fast(made: Tokenizer) -> Any:
        return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="a")

    with pytest.raises(PlugError, match="its model is Unigram"):
        table_of(fast(Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0))), 9)
    digits = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    digits.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()])
    with pytest.raises(PlugError, match="splits texts"):
        table_of(fast(digits), 9)
    with pytest.raises(PlugError, match="the model only 10"):
        table_of(specialist.tokenizer, 10)


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_ways_to_split_a_text(name: str, tmp_path: Path) -> None:
    """The tokenizer in the file (llama.cpp's, where it is installed) gives the tokens of the one that was trained."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from attune.catalog.exports._gguf_tokens import SPLITS, table_of

    texts = [*speakers.TEXTS, "I'M HERE, we'll see 123456 7890!!!\r\n\r\n   x", "don't 12,345.67 \t\t tabs  ", "a.b.c --- 'quoted' naïve\u00a0space"]
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    steps: list[Any] = [pre_tokenizers.Split(Regex(SPLITS[name]), "isolated")] if name in SPLITS else []
    steps += [pre_tokenizers.Digits(individual_digits=True)] if name == "smollm" else []
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in SPLITS)
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(texts * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    assert table_of(fast, len(fast)).pre == name
    fast.save_pretrained(tmp_path / "base")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LlamaConfig(vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    plug = written("gguf", speakers.speaker(tmp_path / "base", "full"), tmp_path / "out")
    voice = plug.voice(tmp_path / "out")
    for text in texts:
        assert voice.encode(text, begin=False) == fast(text, add_special_tokens=False)["input_ids"], text
    voice.close()


def test_sentencepiece_through_a_token_table_and_back(tmp_path: Path) -> None:
    weights = Path(__file__).resolve().parents[3] / "shared" / "weights" / "stories260K" / "hf"
    if not weights.is_dir():
        pytest.skip("the shared weights are not here")
    whole = speakers.speaker(weights, "full")
    plug = written("gguf", whole, tmp_path / "out")
    assert wrong(plug, tmp_path / "out", whole) == []
    voice = plug.voice(tmp_path / "out")
    for text in speakers.TEXTS:
        assert voice.encode(text, begin=False) == whole.tokenizer(text, add_special_tokens=False)["input_ids"]
    voice.close()


# ---------------------------------------------------------------- Ollama


def test_ollama_gets_what_it_needs(specialist: Specialist, tmp_path: Path) -> None:
    plug = written("ollama", specialist, tmp_path / "out")
    text = (tmp_path / "out" / "Modelfile").read_text()
    for line in ("FROM ./model.gguf", 'PARAMETER stop "</s>"', 'PARAMETER stop "<|end|>"', "PARAMETER temperature 0", "PARAMETER repeat_penalty 1", "PARAMETER num_predict 8"):
        assert line in text
    assert "<s>" not in text.split('"""')[1], "the begin token is the file's matter: twice would be once too often"
    assert "Ollama itself did not run here" in plug.caveat(tmp_path / "out")


TEMPLATES = {
    "a default system prompt": (
        "{% if messages[0]['role'] != 'system' %}<|start|>system\nBe good.<|end|>\n{% endif %}" + speakers.CHAT_TEMPLATE.removeprefix("{{ bos_token }}"),
        None,
    ),
    "spaces cut away": (speakers.CHAT_TEMPLATE.replace("m['content']", "m['content'] | trim"), "send messages without them"),
    "no system messages": ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + speakers.CHAT_TEMPLATE, "no system messages"),
    "system inside the question": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[Q]{{ messages[0]['content'] if messages[0]['role'] == 'system' and loop.index0 == 1 else '' }}{{ m['content'] }}[/Q]"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endif %}{% endfor %}",
        "refused",
    ),
    "numbers its turns": ("{% for m in messages %}{{ loop.index }} {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", "refused"),
    "shouts": ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] | upper }}\n{% endfor %}", "refused"),
    "braces": (speakers.CHAT_TEMPLATE.replace("<|start|>", "{{ '{{' }}"), "refused"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_for_ollama(name: str, specialist: Specialist) -> None:
    from attune.catalog.exports._ollama_template import rendered, translated

    jinja, told = TEMPLATES[name]
    other = Specialist(specialist.task, {}, specialist.model, specialist.base.tokenizer(), specialist.base, 96)
    other.tokenizer.chat_template = jinja

    def plain(messages: Any, to_answer: bool) -> str:
        return render(other, messages, to_answer=to_answer).removeprefix("<s>")

    if told == "refused":
        with pytest.raises(PlugError, match="cannot be written as Ollama's"):
            translated(plain)
        return
    go, notes = translated(plain)
    assert ("; ".join(notes) or None) == told or str(told) in "; ".join(notes)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    assert rendered(go, talk) == plain(talk, True)


def test_an_unknown_template_is_not_guessed() -> None:
    from attune.catalog.exports._ollama_template import rendered

    for text in ("{{ .Prompt }}", "{{ range $i, $m := .Messages }}{{ if .Tools }}x{{ end }}{{ end }}", "{{ range $i, $m := .Messages }}"):
        with pytest.raises(PlugError):
            rendered(text, [{"role": "user", "content": "x"}])


# ---------------------------------------------------------------- ONNX


def test_onnx_takes_any_batch_and_length(specialist: Specialist, tmp_path: Path) -> None:
    import numpy as np
    import torch

    from attune.catalog.exports.onnx import session_of

    plug = written("onnx", specialist, tmp_path / "out")
    assert wrong(plug, tmp_path / "out", specialist) == []
    session = session_of(tmp_path / "out")
    ids, mask = torch.randint(5, 300, (3, 11)), torch.ones((3, 11), dtype=torch.int64)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        own = specialist.model.body(input_ids=ids, attention_mask=mask, position_ids=positions).logits.numpy()
    found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    real = mask.numpy().astype(bool)
    assert np.abs(found - own)[real].max() < 1e-3
    faulty = planted("wrong norm constant", specialist, tmp_path / "base")
    assert "its norm epsilon is 1e-05, the tuned model's is 1e-06" in wrong(written("onnx", faulty, tmp_path / "faulty"), tmp_path / "faulty", specialist)


@pytest.mark.parametrize("kind", ["gemma", "qwen3", "gpt2", "gpt_neox"])
def test_epsilons_in_graphs_of_families(kind: str, tmp_path: Path) -> None:
    """Roots of a mean and a constant, or operators that normalise: the graph states the numbers of the modules."""
    whole = speakers.speaker(family(kind, tmp_path / "base"), "full")
    plug = written("onnx", whole, tmp_path / "out")
    assert plug.constants(tmp_path / "out")["norm_epsilon"] == pytest.approx(constants_of(whole.model.body)["norm_epsilon"])
    assert wrong(plug, tmp_path / "out", whole) == []


@pytest.mark.parametrize("epsilon", [None, 1e-9])
def test_epsilons_in_a_graph_that_answers_with_labels(epsilon: float | None, tmp_path: Path) -> None:
    import torch

    signature = {"labels": ["no", "yes"], "multi_label": False, "thresholds": None}
    task, method, base = catalog.build("tasks", "text_classification"), catalog.build("methods", "full"), resolve_base(str(tiny_bert(tmp_path / "bert")))
    own = Specialist(task, signature, method.prepare(task.build(base, signature), 1), base.tokenizer(), base, 32, "labels", method=method)
    own.model.eval()
    rows = [{"row_id": f"r{i}", "text": text} for i, text in enumerate(speakers.TEXTS)]
    told, written_down = own.predict(rows), copy.deepcopy(own)
    if epsilon is not None:
        for module in written_down.model.body.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = epsilon
    plug = written("onnx", written_down, tmp_path / "out")
    found = [one["why"] for one in replayed(plug, tmp_path / "out", own, None, told, rows)["disagreements"]]
    assert found == ([] if epsilon is None else ["its norm epsilon is 1e-09, the tuned model's is 1e-12"]), "no answer shows it, the graph does"


# ---------------------------------------------------------------- the certificate


def test_the_certificate_says_what_was_proven(specialist: Specialist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text("\n".join(json.dumps({"prompt": row["prompt"], "completion": row["completion"]}) for row in speakers.ROWS) + '\n"a plain text"\n')
    made = releases.recipe(task={"name": "text_generation", "max_new_tokens": 8}, method={"name": "lora", "rank": 4}, base_model=str(specialist.base.folder))
    space = Workspace(tmp_path / "space")
    released = releases.release(space, made=made, model=specialist)
    found = register.export(space, released, ["merged", "vllm"], tmp_path / "out", Events(), golden=golden)
    certificate = json.loads((tmp_path / "out" / "merged" / "certificate.json").read_text())
    assert certificate == json.loads(json.dumps(found["merged"]))
    assert certificate["status"] == "verified"
    assert certificate["words"].startswith("verified: it answers 6 golden rows as the release does: 100.0% of")
    assert certificate["golden"]["from"] == "golden.jsonl"
    assert certificate["metric"]["name"] == "token_f1"
    assert certificate["metric"]["rows"] == 5
    assert certificate["chat_template_sha256"] == specialist.signature["chat_template_sha256"]
    assert {"model.safetensors", "chat_template.jinja", "generation_config.json"} <= set(certificate["files"])
    assert {"torch", "transformers", "peft"} <= set(certificate["versions"])
    assert found["vllm"]["status"] == "unverified"
    assert "vLLM itself did not run here" in found["vllm"]["words"]
    plug = catalog.load("exports", "merged")
    write = plug.write

    def broken(self: Any, specialist: Specialist, bundle: Path, folder: Path) -> None:
        write(self, specialist, bundle, folder)
        (folder / "model.safetensors").write_bytes(b"nothing")

    monkeypatch.setattr(plug, "write", broken)
    with pytest.raises(IntegrityError, match="'merged' could not be replayed"):
        register.export(space, released, ["merged"], tmp_path / "again", Events(), golden=golden)
    assert list((tmp_path / "again").iterdir()) == []
    space.close()


def test_a_model_of_documents_proves_itself_on_their_beginnings(tmp_path: Path) -> None:
    """Documents hold no question, and a base for the next recipe is exported from a run on nothing else."""
    texts = [f"Number {number} of the papers says that {word} is kept in box {number % 7}." for number, word in enumerate(("tea", "salt", "rope", "glass") * 10)]
    speakers.base_of(tmp_path / "base")
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = make_recipe(
        {
            "name": "papers",
            "base_model": "base",
            "task": {"name": "text_generation", "max_new_tokens": 4},
            "objective": "pretraining",
            "method": "full",
            "data": {"path": "papers.jsonl", "checks": []},
            "train": {"epochs": 1, "max_length": 48, "refit": False, "accept": ["wrong_tokenizer"]},
        },
        folder=tmp_path,
    )
    space = Workspace(tmp_path / "space")
    released = lifecycle.run(made, space).release
    assert released is not None
    found = register.export(space, released, ["merged"], tmp_path / "out", Events(), tmp_path)["merged"]
    assert found["status"] == "verified"
    assert found["rows"] == found["prompts_with_the_same_tokens"] == 4
    assert found["positions"] > 4 * 8, "more than a begin token was read of each"
    space.close()


def test_golden_files_are_read_strictly(specialist: Specialist, tmp_path: Path) -> None:
    for text, told in (('{"prompt": "a"}\n[1]\n', "neither a text nor an object"), ("{", "not JSON"), ("\n", "no golden rows"), ('""', "empty")):
        path = tmp_path / "golden.jsonl"
        path.write_text(text)
        with pytest.raises((DataError, IntegrityError), match=told):
            golden_file(path, specialist)
    with pytest.raises(DataError, match="cannot read"):
        golden_file(tmp_path / "missing.jsonl", specialist)


def test_bases_can_be_loaded_again_from_what_was_written(specialist: Specialist, tmp_path: Path) -> None:
    """A merged model is a base for the next round."""
    written("merged", specialist, tmp_path / "out")
    base = resolve_base(str(tmp_path / "out"))
    assert base.kind == "decoder"
    assert load_body(base.folder, "AutoModelForCausalLM").config.vocab_size == len(specialist.tokenizer)
