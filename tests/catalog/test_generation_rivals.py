"""Rivals that put something into the prompt: what they find, what fits, what they choose, and that the tuned model is a companion."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from attune.catalog.rivals._search import Search
from attune.core import catalog
from attune.core.contracts import RivalContext
from attune.core.errors import DataError, PlugError, RecipeError
from attune.testing.bench import Bench, bench

TEXTS = ["the parcel is late", "money back for the parcel", "lost my password", "the the the the"]


def no_vectors(texts):
    raise AssertionError("words need no vectors")


def test_bm25_is_the_formula():
    search = Search(TEXTS, "words", no_vectors)
    documents = [text.split() for text in TEXTS]
    average = np.mean([len(one) for one in documents])

    def score(question, document):
        total = 0.0
        for word in question.split():
            there = sum(word in one for one in documents)
            count = document.count(word)
            total += math.log(1 + (len(documents) - there + 0.5) / (there + 0.5)) * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(document) / average))
        return total

    for question in ("the late parcel", "password", "parcel parcel money"):
        wanted = [score(question, one) for one in documents]
        assert search.words.scores([question])[0] == pytest.approx(wanted)
        assert search.best([question], 1)[0][0] == int(np.argmax(wanted))


def test_ranks_are_fused_and_words_need_no_vectors():
    def embed(texts):
        return np.array([[1.0, 0.0] if "password" in text else [0.0, 1.0] for text in texts], dtype=np.float32)

    assert Search(TEXTS, "vectors", embed).best(["a password"], 1) == [[2]]
    assert Search(TEXTS, "both", embed).best(["password"], 2)[0][0] == 2
    assert Search(["?", "!"], "words", no_vectors).best(["x"], 1) == [[0]]


@pytest.fixture(scope="module")
def generation() -> Bench:
    return bench("text_generation")


def fitted(generation: Bench, name: str, folder: Path = Path(), **keys):
    rival = catalog.build("rivals", {"name": name, **keys})
    rival.folder = folder
    rival.fit(generation.rival_context())
    return rival


def test_examples_are_earlier_turns_the_most_similar_last(generation):
    rival = fitted(generation, "prompted_base", examples=[2], instruction="Answer briefly.")
    row = generation.train[3]
    prompt = rival.prompts([row], 2)[0](2)
    assert [turn["role"] for turn in prompt] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert prompt[0]["content"] == "Answer briefly."
    assert prompt[3]["content"] == row["prompt"][0]["content"] == prompt[5]["content"]
    assert prompt[4]["content"] == row["completion"]
    assert rival.prompts([row], 2)[0](0) == [prompt[0], *row["prompt"]]
    assert rival.note == "2 examples in the prompt"


def test_what_does_not_fit_is_left_out_and_never_the_question(generation):
    rival = fitted(generation, "prompted_base", examples=[20], context=4096)
    asked = []
    rival.specialist.task = generation.task
    examine = type(rival.specialist).examine
    try:
        type(rival.specialist).examine = lambda self, rows: asked.extend(rows) or examine(self, rows)
        rival.predict(generation.test[:2])
    finally:
        type(rival.specialist).examine = examine
    for row, given in zip(asked, generation.test, strict=False):
        assert row["prompt"][-1] == given["prompt"][-1]
        assert 3 <= len(row["prompt"]) < 41
    room = rival.specialist.model.body.config.max_position_embeddings
    assert rival.specialist.max_length == room > generation.max_length


def test_the_validation_rows_choose_and_the_report_is_told(generation):
    rival = fitted(generation, "prompted_base", examples=[0, 1], tries=3)
    assert rival.number in (0, 1)
    assert rival.note.endswith("chosen among 0, 1 on validation rows")
    with pytest.raises(RecipeError, match="no numbers of examples"):
        fitted(generation, "prompted_base", examples=[])


def test_passages_come_from_training_rows_or_documents(generation, tmp_path):
    row = generation.train[5]
    own = fitted(generation, "retrieval_augmented_base", passages=[1])
    (turn,) = own.prompts([row], 1)[0](1)
    assert turn["content"] == f"{row['prompt'][0]['content']}\n{row['completion']}\n\n{row['prompt'][0]['content']}"
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "deep" / "a.md").write_text("Parcels are late on Mondays.\n\n" + "Other things. " * 40)
    documents = fitted(generation, "retrieval_augmented_base", tmp_path, documents="docs", words=20, passages=[1], phrase="Known: {passages}\nAsked: {question}")
    (turn,) = documents.prompts([{"prompt": [{"role": "user", "content": "late parcels"}]}], 1)[0](1)
    assert turn["content"] == "Known: Parcels are late on Mondays.\nAsked: late parcels"
    assert documents.reads() == [tmp_path / "docs" / "deep" / "a.md"]
    assert all(len(one.split()) <= 20 for one in documents.passages)
    with pytest.raises(DataError, match="no text files"):
        fitted(generation, "retrieval_augmented_base", tmp_path, documents="nowhere")


def test_an_answer_is_looked_up_by_words_or_by_vectors(generation):
    """By words the row with the rarest shared words is nearest, whatever an untrained base's vectors say."""
    row = generation.train[5]
    by_words = fitted(generation, "retrieval", by="words")
    (found,) = by_words.predict([{"prompt": row["prompt"]}])
    assert found.output == row["completion"]
    assert found.confidence is None, "a sum of word weights is no probability"
    (nearest,) = fitted(generation, "retrieval").predict([{"prompt": row["prompt"]}])
    assert 0 <= nearest.confidence <= 1
    labels = bench("text_classification").rival_context()
    with pytest.raises(RecipeError, match="labels are voted by vectors"):
        catalog.build("rivals", {"name": "retrieval", "by": "words"}).fit(labels)


def test_the_tuned_model_with_passages_is_a_companion(generation):
    rival = fitted(generation, "tuned_with_retrieval", passages=[1])
    assert not rival.opponent
    assert rival.specialist.model is generation.tuned().model
    context = generation.rival_context()
    alone = RivalContext(context.task, context.signature, context.train, context.validation, context.base, 5, context.untuned, context.embed)
    with pytest.raises(PlugError, match="no tuned model"):
        catalog.build("rivals", "tuned_with_retrieval").fit(alone)


def test_likelihood_is_that_of_the_whole_network(generation):
    """The nll of `examine` against logits of transformers' own forward pass, row by row."""
    import torch

    from attune.core.conversation import stop_ids, taught

    specialist = generation.tuned()
    rows = [*generation.test, {"row_id": "raw", "prompt": [], "completion": "please help with the parcel"}]
    found = specialist.likelihood(rows)
    for row, (nll, tokens) in zip(generation.test, found, strict=False):
        one = taught(specialist, [*row["prompt"], {"role": "assistant", "content": row["completion"]}], stop_ids(specialist))
        with torch.no_grad():
            logits = specialist.model.body(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        places = range(len(one.ids) - one.answer_size, len(one.ids))
        assert tokens == one.answer_size
        assert nll == pytest.approx(-sum(float(logits[i - 1, one.ids[i]]) for i in places), rel=1e-4)
    text = specialist.tokenizer("please help with the parcel", add_special_tokens=False)["input_ids"]
    assert found[-1][1] == len(text) + 1
    examined = specialist.examine(generation.test)
    assert [one.extra["nll"] for one in examined] == pytest.approx([nll for nll, _ in found[:-1]], rel=1e-5)
    assert "nll" not in specialist.examine(generation.questions())[0].extra


def test_functions_take_room_in_the_prompt(generation):
    from attune.catalog.rivals._prompting import fits

    rival = fitted(generation, "prompted_base", examples=[1], context=160)
    tools = [{"type": "function", "function": {"name": f"look_at_{number}", "parameters": {}}} for number in range(6)]
    prompt = rival.prompts([generation.train[3]], 1)[0](1)
    assert fits(rival.specialist, prompt)
    assert not fits(rival.specialist, prompt, tools)


def test_a_text_that_goes_on_is_asked_as_it_is(generation):
    rival = fitted(generation, "prompted_base", examples=[2])
    row = {"row_id": "s", "prompt": [{"role": "segment", "content": "Where is"}], "completion": " my parcel?"}
    assert rival.predict([row])[0].output == rival.specialist.examine([row])[0].output
