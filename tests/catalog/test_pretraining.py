"""Objective pretraining: documents for decoders and encoders, cut by the user's rule; nothing lost, nothing seen that should not be; agreement with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.core import catalog
from attune.core.commit import committed_folder
from attune.core.errors import DataError, IntegrityError, PlugError
from attune.core.likelihood import answer_nll, document_ids, in_blocks
from attune.core.models import load_body, resolve_base
from attune.core.recipe import DEFAULT_BASE, make_recipe
from attune.core.specialist import Specialist, open_bundle, write_bundle
from attune.testing.models import tiny_bert, tiny_llama

TEXTS = [
    "The court found the clause void. It had been agreed under duress! Was it severable? It was not.",
    "A short note.",
    "The tenant pays the rent on the first day of each month. The landlord repairs the roof. Notice is three months. Disputes go to arbitration in Geneva. This lease is governed by Swiss law.",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), TEXTS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def objective_of(**keys: Any) -> Any:
    return catalog.build("objectives", {"name": "pretraining", **keys})


def specialist_of(folder: Path | str, task_name: str = "text_generation", max_length: int = 24, method: str = "full") -> Specialist:
    task = objective_of().shaped(catalog.build("tasks", task_name))
    base, plug = resolve_base(str(folder)), catalog.build("methods", method)
    signature = task.signature(rows_of(task))
    specialist = Specialist(task, signature, plug.prepare(task.build(base, signature), 3), base.tokenizer(), base, max_length, "reader", method=plug)
    specialist.model.eval()
    return specialist


def rows_of(task: Any, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    column = "completion" if "text-out" in task.traits else "text"
    return [{"row_id": f"d{i}", "place": f"docs.csv:{i + 2}", **task.parse({"body": text}, {column: "body"})} for i, text in enumerate(texts)]


# ---------------------------------------------------------------- rows


def test_a_recipe_takes_documents_and_is_graded_by_perplexity(tmp_path: Path) -> None:
    recipe = make_recipe({"name": "reader", "task": "text_generation", "objective": "pretraining", "data": {"path": "docs.csv"}}, folder=tmp_path)
    assert recipe.main_metric == "perplexity"
    assert recipe.task.parse({"body": "a b"}, {"completion": "body"}) == {"prompt": [], "completion": "a b"}
    assert recipe.task.text({"prompt": [], "completion": "a b"}) == "a b", "duplicates are told by the document"
    plain = make_recipe({"name": "reader", "task": "text_generation", "data": {"path": "docs.csv"}}, folder=tmp_path)
    assert plain.main_metric == "token_f1"
    assert [role.required for role in plain.task.roles if role.name == "prompt"] == [True], "the task itself was not changed"


def test_a_plain_text_has_no_question_and_a_conversation_needs_one(tmp_path: Path) -> None:
    from attune.core.contracts import CheckContext

    check = catalog.build("checks", "types")
    plain, documents = catalog.build("tasks", "text_generation"), objective_of().shaped(catalog.build("tasks", "text_generation"))
    for task, prompt, faults in ((documents, [], 0), (plain, [], 0), (plain, None, 1), (plain, "text", 1), (plain, [{"role": "user", "content": " "}], 1)):
        rows = [{"row_id": "a", "place": "a:1", "prompt": prompt, "completion": "text"}]
        assert len(list(check.examine(rows, CheckContext(task, {}, 0)))) == faults
    assert plain.parse({"prompt": [], "completion": "text"}, {"prompt": "prompt", "completion": "completion"})["prompt"] is None  # an empty question is none


@pytest.mark.parametrize("name", ["exact_duplicates", "leakage"])
def test_documents_that_come_twice_are_found_by_what_they_say(name: str) -> None:
    from attune.core.contracts import CheckContext

    task, check = objective_of().shaped(catalog.build("tasks", "text_generation")), catalog.build("checks", name)
    rows = rows_of(task, [*TEXTS, TEXTS[2]])
    splits = {row["row_id"]: "test" if row["row_id"] == "d3" else "train" for row in rows}
    found = {finding.row_id for finding in check.examine(rows, CheckContext(task, {}, 0, splits=splits))}
    assert found in ({"d3"}, {"d2"}), "the copy, and no other document"
    assert not list(check.examine(rows[:3], CheckContext(task, {}, 0, splits=splits)))


# ---------------------------------------------------------------- cutting


@pytest.mark.parametrize("cut", ["blocks", "sentences"])
@pytest.mark.parametrize("most", [2, 3, 7, 24, 500])
def test_every_token_is_learned_once_whatever_the_rule(llama: Path, cut: str, most: int) -> None:
    specialist = specialist_of(llama)
    rows = rows_of(specialist.task)
    examples = objective_of(cut=cut).examples(specialist, rows, most)
    assert all(2 <= one["size"] == len(one["ids"]) <= most for one in examples)
    for row in rows:
        blocks = [one["ids"] for one in examples if one["row_id"] == row["row_id"]]
        whole = document_ids(specialist.tokenizer, row["completion"])[0]
        assert [blocks[0][0], *(token for block in blocks for token in block[1:])] == whole
        assert whole[0] == specialist.tokenizer.bos_token_id
        assert whole[-1] == specialist.tokenizer.eos_token_id


def test_blocks_begin_with_sentences_where_they_can(llama: Path) -> None:
    specialist = specialist_of(llama)
    row = rows_of(specialist.task)[2]
    said = {cut: [specialist.tokenizer.decode(one["ids"][1:]).strip() for one in objective_of(cut=cut).examples(specialist, [row], 40)] for cut in ("sentences", "blocks")}
    assert len(said["sentences"]) > 1
    assert all(text.endswith((".", ".</s>")) for text in said["sentences"])
    assert not all(text.endswith((".", ".</s>")) for text in said["blocks"]), "without the rule sentences are cut through"


def test_rows_that_are_dropped_are_named_and_all_of_them_is_refused(llama: Path) -> None:
    specialist = specialist_of(llama)
    examples = objective_of(cut="drop").examples(specialist, rows_of(specialist.task), 24)
    assert {one["row_id"] for one in examples} == {"d1"}
    with pytest.raises(DataError, match="all 3 documents are longer") as told:
        objective_of(cut="drop").examples(specialist, rows_of(specialist.task), 4)
    assert "blocks or sentences" in str(told.value.fix)


def test_a_tokenizer_without_an_end_token_is_refused(llama: Path) -> None:
    tokenizer = resolve_base(str(llama)).tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(PlugError, match="no end token"):
        document_ids(tokenizer, "a")


def test_blocks_of_a_document_overlap_by_the_token_that_is_looked_at() -> None:
    assert [block for block, _ in in_blocks(list(range(8)), 4)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert [block for block, _ in in_blocks(list(range(8)), 4, [3, 5])] == [[0, 1, 2], [2, 3, 4], [4, 5, 6, 7]]


# ---------------------------------------------------------------- the loss


def by_transformers(specialist: Specialist, examples: list[dict[str, Any]]) -> torch.Tensor:
    """Sum of the losses of transformers' own model, one row at a time, where nothing can leak."""
    total = torch.zeros(())
    for one in examples:
        ids = torch.tensor([one["ids"]])
        total = total + specialist.model.body(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
    return total


def test_packed_and_unpacked_agree_with_transformers_in_loss_and_gradient(llama: Path) -> None:
    specialist, objective = specialist_of(llama), objective_of()
    examples = objective.examples(specialist, rows_of(specialist.task), 24)
    told = by_transformers(specialist, examples)
    told.backward()
    wanted = {name: p.grad.clone() for name, p in specialist.model.named_parameters()}
    for parts in ([examples], [[one] for one in examples], [examples[:2], examples[2:]]):
        specialist.model.zero_grad()
        total = torch.zeros(())
        for part in parts:
            loss, count = objective.loss(specialist.model, objective.collate(specialist, part))
            assert count == sum(one["size"] - 1 for one in part)
            loss.backward()
            total += loss.detach()
        assert float(total) == pytest.approx(float(told.detach()), rel=1e-5)
        for name, parameter in specialist.model.named_parameters():
            assert torch.allclose(parameter.grad, wanted[name], atol=2e-4 * float(wanted[name].abs().max())), name


def test_a_document_that_could_look_at_its_neighbour_would_be_noticed(llama: Path) -> None:
    """Must fail: the same blocks joined to one row have another loss."""
    specialist, objective = specialist_of(llama), objective_of()
    examples = objective.examples(specialist, rows_of(specialist.task), 24)
    joined = [{"row_id": "x", "size": 0, "ids": [token for one in examples for token in one["ids"]]}]
    apart, together = (float(objective.loss(specialist.model, objective.collate(specialist, part))[0].detach()) for part in (examples, joined))
    assert apart != pytest.approx(together, rel=1e-3)


def test_what_is_graded_is_what_is_learned(llama: Path) -> None:
    """The sum of the losses is the sum of the likelihoods that perplexity is made from, and an answer's likelihood is that of its tokens alone."""
    specialist, objective = specialist_of(llama), objective_of()
    rows = rows_of(specialist.task)
    total, count = objective.loss(specialist.model, objective.collate(specialist, objective.examples(specialist, rows, specialist.max_length)))
    answers = specialist.examine(rows)
    assert sum(one.extra["nll"] for one in answers) == pytest.approx(float(total), rel=1e-5)
    assert sum(one.extra["nll_tokens"] for one in answers) == count
    metric = catalog.build("metrics", "perplexity")
    assert float(metric.value(metric.contributions(TEXTS, answers, {}).sum(0))) == pytest.approx(float((total / count).exp()), rel=1e-5)
    sft = catalog.build("objectives", "sft")
    talk = [{"row_id": "t", "prompt": [{"role": "user", "content": "rent?"}], "completion": "On the first."}]
    specialist.max_length = 96
    loss, size = sft.loss(specialist.model, sft.collate(specialist, sft.examples(specialist, talk, 96)))
    with torch.no_grad():
        assert answer_nll(specialist, talk) == [(pytest.approx(float(loss), rel=1e-5), int(size))]


# ---------------------------------------------------------------- hidden words


def test_hidden_words_are_drawn_purely_and_in_the_right_shares(bert: Path) -> None:
    specialist, objective = specialist_of(bert, "fill_mask", 64), objective_of()
    rows = rows_of(specialist.task, [" ".join(TEXTS)] * 1 + [f"{text} number {i}" for i in range(60) for text in TEXTS])
    examples = objective.examples(specialist, rows, 64)
    first = objective.renew(specialist, examples, 1, 7)
    assert [one["masked"] for one in objective.renew(specialist, examples[5:6], 1, 7)] == [first[5]["masked"]], "not by what else is in the batch"
    assert [one["masked"] for one in objective.renew(specialist, examples, 1, 8)] != [one["masked"] for one in first]
    assert [one["masked"] for one in objective.renew(specialist, examples, 2, 7)] != [one["masked"] for one in first]
    mask, special = specialist.tokenizer.mask_token_id, set(specialist.tokenizer.all_special_ids)
    hidden = [(one["masked"][place], one["whole"][place]) for one in first for place in one["places"]]
    words = sum(token not in special for one in first for token in one["whole"])
    assert len(hidden) / words == pytest.approx(0.15, abs=0.02)
    assert sum(new == mask for new, _ in hidden) / len(hidden) == pytest.approx(0.8, abs=0.05)
    assert sum(new == old for new, old in hidden) / len(hidden) == pytest.approx(0.1, abs=0.04)
    assert not any(old in special for _, old in hidden)
    assert all(one["masked"][place] == one["whole"][place] for one in first for place in range(one["size"]) if place not in one["places"])


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert"])
def test_masked_loss_and_gradient_agree_with_transformers(bert: Path, tmp_path: Path, family: str) -> None:
    import transformers

    tokenizer = resolve_base(str(bert)).tokenizer()
    small = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 80}
    config = {
        "bert": lambda: transformers.BertConfig(**small, **wide),
        "distilbert": lambda: transformers.DistilBertConfig(**small, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=80),
        "roberta": lambda: transformers.RobertaConfig(**small, **wide),
        "modernbert": lambda: transformers.ModernBertConfig(**small, **wide, cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, bos_token_id=0, eos_token_id=0),
    }[family]()
    torch.manual_seed(4)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    specialist, objective = specialist_of(tmp_path, "fill_mask", 40), objective_of()
    examples = objective.renew(specialist, objective.examples(specialist, rows_of(specialist.task), 40), 1, 3)
    own, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    own.backward()
    found = {name: p.grad.clone() for name, p in specialist.model.named_parameters() if p.grad is not None}
    specialist.model.zero_grad()
    told = torch.zeros(())
    for one in examples:
        labels = torch.tensor([[token if place in one["places"] else -100 for place, token in enumerate(one["whole"])]])
        told = told + specialist.model.body(input_ids=torch.tensor([one["masked"]]), labels=labels).loss * len(one["places"])
    told.backward()
    assert count == sum(len(one["places"]) for one in examples) > 5
    assert float(own) == pytest.approx(float(told), rel=1e-4)
    wanted = {name: p.grad for name, p in specialist.model.named_parameters() if p.grad is not None}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-3 * max(float(gradient.abs().max()), 1e-3)), name


def test_a_base_without_an_output_layer_gets_a_fresh_tied_one_and_other_missing_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    specialist = specialist_of(DEFAULT_BASE, "fill_mask")
    output = specialist.model.body.get_output_embeddings()
    assert output.weight is specialist.model.body.get_input_embeddings().weight
    again = specialist_of(DEFAULT_BASE, "fill_mask")
    assert all(torch.equal(one, other) for one, other in zip(specialist.model.parameters(), again.model.parameters(), strict=True)), "it starts the same each time"
    assert torch.isfinite(specialist.model.vocabulary_logits(torch.randn(2, 384))).all()
    with pytest.raises(IntegrityError, match="weights are missing"):
        load_body(resolve_base(DEFAULT_BASE).folder, "AutoModelForMaskedLM")
    untied = resolve_base(str(tiny_bert(tmp_path / "untied")))
    config = json.loads((untied.folder / "config.json").read_text())
    (untied.folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    body = untied.body("AutoModelForMaskedLM", fresh=True)
    assert torch.equal(body.get_output_embeddings().weight, body.get_input_embeddings().weight), "a base that ties nothing starts from its embedding too"
    bert = tiny_bert(tmp_path / "bert")
    tensors = load_file(bert / "model.safetensors")
    del tensors[next(name for name in sorted(tensors) if "attention.self.query.weight" in name)]
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"query\.weight"):
        load_body(bert, "AutoModelForMaskedLM", fresh=True)


def test_an_adapted_encoder_is_a_base_that_a_classifier_starts_from(tmp_path: Path) -> None:
    """MiniLM, a few steps on domain text: the words of the domain are found more often; its body carries a classification, and its bundle answers."""
    texts = [f"the tenant {verb} the {thing} before the {day}" for verb in ("pays", "repairs", "returns") for thing in ("rent", "roof", "deposit") for day in ("first", "third")]
    specialist, objective = specialist_of(DEFAULT_BASE, "fill_mask", 32), objective_of()
    rows = rows_of(specialist.task, texts)
    before = sum(one.extra["nll"] for one in specialist.examine(rows))
    examples = objective.examples(specialist, rows, 32)
    optimizer = torch.optim.AdamW([p for p in specialist.model.parameters() if p.requires_grad], lr=3e-4)
    specialist.model.train()
    for step in range(12):
        total, count = objective.loss(specialist.model, objective.collate(specialist, objective.renew(specialist, examples, 3, step)))
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    specialist.model.eval()
    after = specialist.examine(rows)
    assert sum(one.extra["nll"] for one in after) < 0.7 * before
    with committed_folder(tmp_path / "bundle") as folder:
        write_bundle(specialist, folder)
    again = open_bundle(tmp_path / "bundle")
    assert [one.output for one in again.examine(rows)] == [one.output for one in after]
    cloze = {"row_id": "c", "place": "c:1", "text": "the tenant pays the [MASK] before the first", "answer": "rent"}
    assert len(again.predict([cloze])[0].output) == 1
    assert again.examine([cloze])[0].extra["nll_tokens"] == 1
    with pytest.raises(DataError, match=r"c:1.*1 mask token, and the answer 'rent roof' is 2 tokens"):
        again.examine([{**cloze, "answer": "rent roof"}])

    base = resolve_base(str(tmp_path / "bundle" / "model" / "body"))
    assert (base.kind, base.pooling()) == ("encoder", "mean")
    assert base.tokenizer().get_vocab() == specialist.tokenizer.get_vocab()
    model = catalog.build("tasks", "text_classification").build(base, {"labels": ["a", "b"]})
    state = specialist.model.decoder().state_dict()
    own = model.decoder().state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    old = resolve_base(DEFAULT_BASE).body().state_dict()
    assert any(not torch.equal(old[name], value) for name, value in state.items()), "the adapted weights are others than the base's"
