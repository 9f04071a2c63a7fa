"""sft, dpo, kto and reward_model beside TRL: its own trainers, the same network, the same batch; loss and gradients agree."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attune.core.models import resolve_base
from attune.testing.models import tiny_llama
from tests.catalog.test_preferences import COLUMNS, ROWS, alike, bench, gradients
from tests.catalog.test_reward import reward_bench

BETA, FLIPPED = 0.3, 0.2


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [text for row in ROWS for text in row.values()])


def settings(kind: Any, folder: Path, **own: Any) -> Any:
    return kind(output_dir=str(folder), use_cpu=True, bf16=False, fp16=False, report_to="none", gradient_checkpointing=False, max_length=None, disable_tqdm=True, **own)


def trainer_of(kind: Any, model: Any, args: Any, base_folder: Path, rows: list[dict[str, Any]], **own: Any) -> Any:
    """A trainer of TRL's; what it encodes of its rows is not used, every test hands it the ids that we learn from."""
    from datasets import Dataset

    tokenizer = resolve_base(str(base_folder)).tokenizer()
    tokenizer.pad_token = "<|start|>"  # an entry that no row has
    model.config.pad_token_id = tokenizer.pad_token_id
    made = kind(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **own)
    made.model.eval()
    return made


def network(specialist: Any) -> Any:
    """A copy of the tuned network, for TRL to put its own forward on."""
    return copy.deepcopy(specialist.model.body)


@pytest.mark.parametrize("learned", ["every answer", "the last answer", "questions too"])
def test_sft(base_folder, tmp_path, learned):
    """Conversations of one and of two turns, answers of which some are not to be learned, a system turn that two rows share."""
    from trl import SFTConfig, SFTTrainer

    def talk(row: dict[str, str], more: dict[str, str] | None) -> list[dict[str, Any]]:
        first = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"], **({"train": False} if more and learned == "the last answer" else {})}]
        return [*first, {"role": "user", "content": more["prompt"]}, {"role": "assistant", "content": more["rejected"]}] if more else first

    system = [{"role": "system", "content": "Say it in few words, and be kind to all who ask."}]
    talks = [{"messages": [*(system if i % 2 else []), *talk(row, ROWS[i - 1] if i > 1 else None)]} for i, row in enumerate(ROWS)]
    objective, specialist, examples = bench(base_folder, "sft", talks, {"prompt": "messages"}, train_on_prompt=learned == "questions too")
    theirs = network(specialist)
    rows = [{"input_ids": one["ids"], "labels": one["targets"]} for one in examples]
    trainer = trainer_of(SFTTrainer, theirs, settings(SFTConfig, tmp_path), base_folder, rows)
    told = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    ours, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert count == sum(target != -100 for one in examples for target in one["targets"])
    assert float(ours.detach()) / count == pytest.approx(float(told.detach()), rel=1e-4)
    alike(gradients(ours / count, specialist.model.body), gradients(told, theirs))


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge", "robust"])
def test_dpo(base_folder, tmp_path, kind):
    from trl import DPOConfig, DPOTrainer

    objective, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS, loss=kind, beta=BETA, **({"flipped": FLIPPED} if kind == "robust" else {}))
    rows = []
    for one in examples:
        chosen, rejected = (one["ids"][name] for name in ("chosen", "rejected"))
        assert chosen[: one["begin"][0]] == rejected[: one["begin"][1]]
        rows.append({"prompt_ids": chosen[: one["begin"][0]], "chosen_ids": chosen[one["begin"][0] :], "rejected_ids": rejected[one["begin"][1] :]})
    theirs = network(specialist)
    args = settings(DPOConfig, tmp_path, beta=BETA, loss_type=[kind], label_smoothing=FLIPPED if kind == "robust" else 0.0)
    trainer = trainer_of(DPOTrainer, theirs, args, base_folder, ROWS, ref_model=resolve_base(str(base_folder)).body("AutoModelForCausalLM"))
    told = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    ours, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert float(ours.detach()) / count == pytest.approx(float(told.detach()), rel=1e-4)
    alike(gradients(ours / count, specialist.model.body), gradients(told, theirs))


def log_probabilities_of(pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of log-probabilities and token counts of pairs."""
    draw = torch.Generator().manual_seed(2)
    sizes = torch.randint(3, 12, (pairs, 2), generator=draw).float()
    return (-sizes * (0.3 + 2 * torch.rand(pairs, 2, generator=draw))).requires_grad_(), sizes


def test_simpo():
    from trl.experimental.cpo import CPOTrainer

    from attune.core import catalog

    sums, sizes = log_probabilities_of(6)
    own = SimpleNamespace(alpha=0.0, loss_type="simpo", simpo_gamma=0.4, beta=BETA, label_smoothing=0.0, accelerator=SimpleNamespace(device="cpu"))
    means = sums / sizes
    told = CPOTrainer.cpo_loss(own, means[:, 0], means[:, 1])[0]
    ours = catalog.build("objectives", {"name": "dpo", "loss": "simpo", "beta": BETA, "gamma": 0.4}).scored(sums, sizes, None)
    assert torch.allclose(ours, told, rtol=1e-5)
    assert torch.allclose(*(torch.autograd.grad(one.sum(), sums, retain_graph=True)[0] for one in (ours, told)), rtol=1e-4)


def test_the_odds_ratio_of_orpo():
    """The pair's part; of the answer's own loss TRL takes the mean over all tokens of a batch, prompts among them, we that of each answer."""
    from trl.experimental.orpo import ORPOTrainer

    from attune.core import catalog

    sums, sizes = log_probabilities_of(6)
    means = sums / sizes
    told = -ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=BETA, accelerator=SimpleNamespace(device="cpu")), means[:, 0], means[:, 1])[0]
    ours = catalog.build("objectives", {"name": "dpo", "loss": "orpo", "beta": BETA}).scored(sums, sizes, None) + means[:, 0]
    assert torch.allclose(ours, told, rtol=1e-4, atol=1e-6)
    assert torch.allclose(*(torch.autograd.grad(one.sum(), sums, retain_graph=True)[0] for one in (ours, told)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
def test_kto(base_folder, tmp_path, kind):
    from trl import KTOConfig, KTOTrainer

    marked = [{"prompt": row["prompt"], "completion": row["chosen"] if i % 2 else row["rejected"], "label": bool(i % 2)} for i, row in enumerate(ROWS)]
    columns = {"prompt": "prompt", "completion": "completion", "desirable": "label"}
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    objective, specialist, examples = bench(base_folder, "kto", marked, columns, loss=kind, beta=BETA, **weights)
    rows = []
    for one in examples:
        ids, begin = one["ids"]["own"], one["begin"][0]
        mismatched = {"KL_completion_ids": one["ids"]["other"][one["begin"][1] :]} if kind == "kto" else {}
        rows.append({"prompt_ids": ids[:begin], "completion_ids": ids[begin:], "label": one["desirable"], **mismatched})
    theirs = network(specialist)
    args = settings(KTOConfig, tmp_path, beta=BETA, loss_type=kind, **weights)
    trainer = trainer_of(KTOTrainer, theirs, args, base_folder, marked, ref_model=resolve_base(str(base_folder)).body("AutoModelForCausalLM"))
    told = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    ours, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert float(ours.detach()) / count == pytest.approx(float(told.detach()), rel=1e-4)
    alike(gradients(ours / count, specialist.model.body), gradients(told, theirs))


@pytest.mark.parametrize("margins", [False, True])
def test_reward_model(base_folder, tmp_path, margins):
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    objective, specialist, examples = reward_bench(base_folder, margins=margins, centre=0.05)
    rows = [{"chosen_ids": one["ids"]["chosen"], "rejected_ids": one["ids"]["rejected"], **({"margin": one["margin"]} if margins else {})} for one in examples]
    config = resolve_base(str(base_folder)).config()
    config.num_labels = 1
    theirs = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    theirs.model.load_state_dict(specialist.model.body.state_dict())
    theirs.score.load_state_dict(specialist.model.head.state_dict())
    trainer = trainer_of(RewardTrainer, theirs, settings(RewardConfig, tmp_path, center_rewards_coefficient=0.05), base_folder, rows)
    told = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    ours, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert float(ours.detach()) / count == pytest.approx(float(told.detach()), rel=1e-4)
    alike(gradients(ours / count, specialist.model), gradients(told, theirs))
