"""Objective grpo: answers drawn by their own keys alone, agreement with plain formulas and with TRL, bit-identical resumes, a reward that rises."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attune.core import catalog, tripwires
from attune.core.conversation import prompt_ids
from attune.core.errors import DataError, PlugError, Problems, RecipeError
from attune.core.models import resolve_base
from attune.core.recipe import make_recipe
from attune.core.recipe_train import TrainKeys
from attune.core.rollouts import attempts
from attune.core.specialist import Specialist
from attune.stages.finetune.torch_learner import TorchLearner
from attune.testing.models import tiny_llama

WORDS = ["parcel", "refund", "login", "order", "invoice", "address"]
VOWELS = {"name": "regex", "pattern": "[aeiou]{2}"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [f"say a word about the {word}" for word in WORDS], vocabulary=280)


def rows_of(task: Any) -> list[dict[str, Any]]:
    return [{"row_id": f"p{i}", "place": f"p.csv:{i + 2}", **task.parse({"q": f"say a word about the {word}"}, {"prompt": "q"})} for i, word in enumerate(WORDS)]


def setting(folder: Path, method: str = "full", **keys: Any) -> tuple[Specialist, Any, list[dict[str, Any]]]:
    objective = catalog.build("objectives", {"name": "grpo", "rewards": [VOWELS], "group": 4, "max_new_tokens": 5, **keys})
    task, way, base = objective.shaped(catalog.build("tasks", "text_generation")), catalog.build("methods", method), resolve_base(str(folder))
    rows = rows_of(task)
    specialist = Specialist(task, task.signature(rows), way.prepare(task.build(base, {}), 3), base.tokenizer(), base, 40, "player", method=way)
    specialist.model.eval()
    return specialist, objective, rows


# ---------------------------------------------------------------- rows and keys


def test_a_recipe_takes_prompts_and_the_columns_of_its_rewards(tmp_path: Path) -> None:
    rewards = ["exact_match", {"name": "json_schema", "for_json": 0.2}]
    recipe = make_recipe({"name": "p", "task": "text_generation", "objective": {"name": "grpo", "rewards": rewards}, "data": {"path": "x.csv"}}, folder=tmp_path)
    assert [role.name for role in recipe.task.roles] == ["prompt", "completion", "schema", "tools"]
    assert recipe.main_metric == "mean_reward"
    row = recipe.task.parse({"q": "2+2", "a": 4, "s": {"type": "number"}}, {"prompt": "q", "completion": "a", "schema": "s"})
    assert row == {"prompt": [{"role": "user", "content": "2+2"}], "completion": "4", "schema": {"type": "number"}}


def test_prompts_are_read_in_every_shape(tmp_path: Path) -> None:
    """Alpaca's input, system and history belong to the question; messages may stand in a table's cell as JSON, and hold the right answer as their last turn."""

    def task_of(*rewards: Any) -> Any:
        return make_recipe({"name": "p", "task": "text_generation", "objective": {"name": "grpo", "rewards": list(rewards)}, "data": {"path": "x.csv"}}, folder=tmp_path).task

    alpaca = {"instruction": "Shorten.", "input": "A long text.", "output": "Text.", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    row = task_of("exact_match").parse(alpaca, {"prompt": "instruction", "completion": "output"})
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Shorten.\nA long text.")]
    assert row["completion"] == "Text."
    talk = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    assert task_of("exact_match").parse({"messages": json.dumps(talk)}, {"prompt": "messages"}) == {"prompt": talk[:1], "completion": "4"}
    assert task_of(VOWELS).parse({"messages": json.dumps(talk[:1])}, {"prompt": "messages"}) == {"prompt": talk[:1]}
    with pytest.raises(DataError, match="ends with an answer"):
        task_of(VOWELS).parse({"messages": talk}, {"prompt": "messages"})


@pytest.mark.parametrize("given", [["assert double(2) == 4", "assert double(0) == 0"], "assert double(2) == 4\nassert double(0) == 0", '["assert double(2) == 4", "assert double(0) == 0"]'])
def test_unit_tests_of_a_row_are_one_program_wherever_they_are_read(tmp_path: Path, given: Any) -> None:
    """As a literal a list of tests tests nothing, so that every program would pass the metric."""
    values, columns = {"q": "write double", "a": "pass", "tests": given}, {"prompt": "q", "completion": "a", "tests": "tests"}
    for objective in ("sft", {"name": "grpo", "rewards": ["unit_tests"]}):
        task = make_recipe({"name": "p", "task": "text_generation", "objective": objective, "data": {"path": "x.csv"}}, folder=tmp_path).task
        row = task.parse(values, columns)
        assert row["tests"] == "assert double(2) == 4\nassert double(0) == 0"
        assert task.parse({**values, "tests": []}, columns).get("tests") is None
        with pytest.raises(DataError, match="not text"):
            task.parse({**values, "tests": [1]}, columns)


def test_wrong_rewards_are_told_when_the_recipe_is_read(tmp_path: Path) -> None:
    for objective, what in (
        ({"rewards": ["exact_mach"]}, "exact_mach"),
        ({"rewards": [VOWELS], "weights": [1.0, 2.0]}, "2 weights for 1"),
        ({"rewards": [{"name": "regex", "patern": "x"}]}, "patern"),
    ):
        with pytest.raises(Problems, match=what):
            make_recipe({"name": "p", "task": "text_generation", "objective": {"name": "grpo", **objective}, "data": {"path": "x.csv"}}, folder=tmp_path)
    with pytest.raises(RecipeError, match="weights"):
        catalog.build("objectives", {"name": "grpo", "rewards": []})


def test_no_room_for_an_answer_is_refused(llama: Path) -> None:
    specialist, objective, rows = setting(llama, max_new_tokens=250)
    with pytest.raises(PlugError, match="256 tokens, fewer than"):
        objective.examples(specialist, rows, 40)


def test_tripwires_that_look_at_answers_let_rows_with_answers_pass(llama: Path) -> None:
    specialist, objective, rows = setting(llama, rewards=["exact_match"])
    rows = [{**row, "completion": "parcel"} for row in rows]
    watched = tripwires.TripwireContext(specialist, objective, rows, objective.examples(specialist, rows, 40))
    looking = [catalog.build("tripwires", name) for name in ("answer_not_learned", "end_not_learned", "nothing_learned")]
    assert all("completion" in one.looks_at or one.name == "nothing_learned" for one in looking)
    assert [alarm for one in looking for alarm in one.examine(watched)] == []


def test_weights_of_rewards_count(llama: Path) -> None:
    _, objective, rows = setting(llama, rewards=[VOWELS, {"name": "regex", "pattern": "b"}], weights=[2.0, -1.0])
    assert objective.worth(rows[:3], ["ea", "eab", "x"]) == [2.0, 1.0, 0.0]


def test_graded_answers_carry_their_reward(llama: Path) -> None:
    specialist, objective, rows = setting(llama)
    answers = specialist.examine(rows[:2])
    assert [one.extra["reward"] for one in answers] == objective.worth(rows[:2], [one.output for one in answers])


def test_functions_stand_in_the_prompt_as_when_the_model_answers(llama: Path) -> None:
    specialist, objective, rows = setting(llama)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    row = {"row_id": "t", "place": "p:1", **specialist.task.parse({"q": "say a word about the parcel", "tools": json.dumps(tools)}, {"prompt": "q"})}
    assert row["tools"] == tools
    found, plain = (objective.examples(specialist, [one], 200)[0]["prompt_ids"] for one in (row, rows[0]))
    assert found == prompt_ids(specialist, row["prompt"], 200, tools)[0]
    assert "look" in specialist.tokenizer.decode(found)
    assert len(found) > len(plain)


# ---------------------------------------------------------------- attempts


def test_an_answer_depends_on_its_own_key_alone(llama: Path) -> None:
    specialist, objective, rows = setting(llama)
    examples = objective.examples(specialist, rows, 40)
    whole = objective.renew(specialist, examples, 5, 3)
    alone = [objective.renew(specialist, [one], 5, 3)[0] for one in examples[::-1]][::-1]
    assert [one["answers"] for one in whole] == [one["answers"] for one in alone]
    assert len({tuple(answer) for one in whole for answer in one["answers"]}) > 6, "samples of a group differ"
    for seed, step in ((6, 3), (5, 4)):
        assert [one["answers"] for one in objective.renew(specialist, examples, seed, step)] != [one["answers"] for one in whole]


def test_what_is_sampled_has_the_models_own_probabilities(llama: Path) -> None:
    """First tokens over many samples against the softmax, at a temperature; and the log-probabilities that are kept are the model's."""
    specialist, objective, rows = setting(llama)
    prompt = objective.examples(specialist, rows[:1], 40)[0]["prompt_ids"]
    tried = attempts(specialist, [prompt] * 2000, [(1, 0, 0, i) for i in range(2000)], stops=[1], most=2, temperature=0.2)
    with torch.no_grad():
        told = (specialist.model.body(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.2).softmax(-1)
    found = torch.bincount(torch.tensor([one.ids[0] for one in tried]), minlength=len(told)) / 2000
    assert float(told.max()) > 0.1, "the test needs a model that prefers some tokens"
    assert float((found - told).abs().max()) < 0.035  # three standard errors of a share of a half
    assert all(one.said[0] == pytest.approx(float(told[one.ids[0]].log()), abs=1e-3) for one in tried[:50])


# ---------------------------------------------------------------- the loss


def filled(specialist: Specialist, objective: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attempts with rewards that differ and with log-probabilities of an older policy, so that ratios are clipped."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for one in objective.renew(specialist, objective.examples(specialist, rows, 40), 5, 3):
        said = [(torch.tensor(s) + 0.4 * torch.randn(len(s), generator=draw)).tolist() for s in one["said"]]
        found.append({**one, "said": said, "advantages": torch.randn(len(said), generator=draw).tolist()})
    return found


def padded(specialist: Specialist, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The same attempts in the form of TRL's batch: prompts padded on the left, answers on the right."""
    pairs = [(one["prompt_ids"], answer, said) for one in examples for answer, said in zip(one["answers"], one["said"], strict=True)]
    left, right = max(len(p) for p, *_ in pairs), max(len(a) for _, a, _ in pairs)
    return {
        "prompt_ids": torch.tensor([[0] * (left - len(p)) + p for p, *_ in pairs]),
        "prompt_mask": torch.tensor([[0] * (left - len(p)) + [1] * len(p) for p, *_ in pairs]),
        "completion_ids": torch.tensor([a + [0] * (right - len(a)) for _, a, _ in pairs]),
        "completion_mask": torch.tensor([[1] * len(a) + [0] * (right - len(a)) for _, a, _ in pairs]),
        "old_per_token_logps": torch.tensor([s + [0.0] * (right - len(a)) for _, a, s in pairs]),
        "advantages": torch.tensor([gain for one in examples for gain in one["advantages"]]),
    }


def by_padding(model: Any, batch: dict[str, torch.Tensor], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities [answers, longest] of transformers' own model."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    keep = batch["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -keep - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)


KEYS = [
    {},
    {"level": "sequence", "clip": 0.05},
    {"average": "constant", "beta": 0.1, "temperature": 0.8},
    {"average": "token", "clip_high": 0.3, "beta": 0.04},
]


def moved(specialist: Specialist) -> None:
    """Away from the base, so that a reference is another."""
    with torch.no_grad():
        draw = torch.Generator().manual_seed(4)
        for parameter in specialist.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)


def own_loss(specialist: Specialist, objective: Any, examples: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    total, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    (total / count).backward()
    found = {name: p.grad.clone() for name, p in specialist.model.named_parameters()}
    specialist.model.zero_grad()
    return float(total.detach()) / count, found


def agree(specialist: Specialist, own: tuple[float, dict[str, torch.Tensor]], told: torch.Tensor) -> None:
    told.backward()
    assert own[0] == pytest.approx(float(told.detach()), rel=1e-3, abs=1e-5)
    for name, parameter in specialist.model.named_parameters():
        assert torch.allclose(own[1][name], parameter.grad, atol=2e-3 * float(parameter.grad.abs().max())), name


@pytest.mark.parametrize("keys", KEYS, ids=["grpo", "gspo", "dr_grpo with kl", "tokens"])
def test_loss_and_gradient_agree_with_the_formula_on_padded_rows(llama: Path, keys: dict[str, Any]) -> None:
    specialist, objective, rows = setting(llama, **keys)
    examples = filled(specialist, objective, rows)
    moved(specialist)
    own, k = own_loss(specialist, objective, examples), objective.keys
    batch = padded(specialist, examples)
    mask, old = batch["completion_mask"], batch["old_per_token_logps"]
    logps = by_padding(specialist.model.body, batch, k.temperature)
    ratio = (logps - old) * mask
    if k.level == "sequence":
        ratio = (ratio.sum(1) / mask.sum(1)).unsqueeze(1).expand_as(logps)
    ratio, gain = ratio.exp(), batch["advantages"].unsqueeze(1)
    loss = -torch.minimum(ratio * gain, ratio.clamp(1 - k.clip, 1 + (k.clip_high or k.clip)) * gain)
    assert bool((ratio.clamp(1 - k.clip, 1 + k.clip) != ratio).any()), "something is clipped"
    if k.beta:
        with torch.no_grad():
            reference = by_padding(resolve_base(str(llama)).body("AutoModelForCausalLM").eval(), batch, k.temperature)
        loss = loss + k.beta * ((reference - logps).exp() - (reference - logps) - 1)
    loss = loss * mask
    agree(specialist, own, {"sequence": (loss.sum(1) / mask.sum(1)).mean(), "token": loss.sum() / mask.sum(), "constant": loss.sum() / (len(loss) * 5)}[k.average])


def trl_loss(specialist: Specialist, objective: Any, batch: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """What TRL's trainer makes of a batch."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    k = objective.keys
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda model, *_, **__: (lambda said: (said, said.detach(), None))(by_padding(model, batch)),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=k.level,
        beta=k.beta,
        loss_type=kind,
        epsilon_low=k.clip,
        epsilon_high=k.clip_high or k.clip,
        use_vllm=False,
        model=specialist.model.body,
        current_gradient_accumulation_steps=1,
        max_completion_length=k.max_new_tokens,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    found: torch.Tensor = GRPOTrainer._compute_loss(trainer, specialist.model.body, batch)
    return found


@pytest.mark.parametrize(("keys", "kind"), [(KEYS[0], "grpo"), (KEYS[1], "grpo"), ({"average": "constant", "beta": 0.1}, "dr_grpo"), ({"average": "token"}, "bnpo")])
def test_agreement_with_trl(llama: Path, keys: dict[str, Any], kind: str) -> None:
    specialist, objective, rows = setting(llama, **keys)
    examples = filled(specialist, objective, rows)
    moved(specialist)
    own, k, batch = own_loss(specialist, objective, examples), objective.keys, padded(specialist, examples)
    if k.beta:
        with torch.no_grad():
            batch["ref_per_token_logps"] = by_padding(resolve_base(str(llama)).body("AutoModelForCausalLM").eval(), batch)
    agree(specialist, own, trl_loss(specialist, objective, batch, kind))


def test_several_updates_per_rollout_are_those_of_trl(llama: Path) -> None:
    """A step with three updates against three updates by TRL's loss on one set of answers, whose ratios are to the policy that wrote them."""

    def moved_by(updates: int) -> torch.Tensor:
        learner, *_ = learner_of(llama, rate=1e-2, updates_per_rollout=updates)
        before = torch.cat([p.detach().flatten() for p in learner.trained.values()])
        learner.step(0)
        return torch.cat([p.detach().flatten() for p in learner.trained.values()]) - before

    learner, specialist, _ = learner_of(llama, rate=1e-2)
    parameters = list(learner.trained.values())
    before = torch.cat([p.detach().flatten() for p in parameters])
    batch = padded(specialist, list(learner.objective.renew(specialist, learner.batch_at(0), 7, 0)))
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, eps=1e-6, weight_decay=0.0)
    specialist.model.train()
    ratios = []
    for _ in range(3):
        with torch.no_grad():
            ratios.append(float(((by_padding(specialist.model.body, batch) - batch["old_per_token_logps"]) * batch["completion_mask"]).exp().sub(1).abs().max()))
        trl_loss(specialist, learner.objective, batch, "grpo").backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    told = torch.cat([p.detach().flatten() for p in parameters]) - before
    assert ratios[0] < 1e-3
    assert ratios[1] > 0.2, "the second update is clipped somewhere"
    assert float((moved_by(3) - told).norm() / told.norm()) < 0.03
    assert float((moved_by(1) - told).norm() / told.norm()) > 0.3, "must fail: one update is not three"


def test_advantages() -> None:
    from attune.catalog.objectives import _policy

    rewards = [0.0, 1.0, 0.0, 3.0]
    whole = torch.tensor(rewards)
    assert _policy.advantages(rewards, "none") == pytest.approx((whole - 1).tolist())
    assert _policy.advantages(rewards, "group") == pytest.approx(((whole - 1) / (whole.std() + 1e-4)).tolist(), rel=1e-5)
    assert _policy.advantages([2.0, 2.0], "group") == [0.0, 0.0], "a group without a difference teaches nothing"


def test_a_prompt_is_computed_once_for_its_group_and_nothing_changes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attune.core.tunable import TunableModel

    specialist, objective, rows = setting(llama)
    examples = filled(specialist, objective, rows)
    shared = objective.collate(specialist, examples)
    once = own_loss(specialist, objective, examples)
    monkeypatch.setattr(TunableModel, "shares", property(lambda self: False))
    alone = objective.collate(specialist, examples)
    apart = own_loss(specialist, objective, examples)
    saved = sum(3 * len(one["prompt_ids"]) for one in examples)
    assert shared["tokens"].ids.shape[1] <= alone["tokens"].ids.shape[1] - saved, "each prompt stands once for its four answers at most"
    assert once[0] == pytest.approx(apart[0], rel=1e-4, abs=1e-6)
    assert all(torch.allclose(once[1][name], gradient, atol=1e-3 * float(gradient.abs().max())) for name, gradient in apart[1].items())


# ---------------------------------------------------------------- the loop


def learner_of(llama: Path, steps: float = 6, rate: float = 3e-3, **keys: Any) -> tuple[TorchLearner, Any, list[dict[str, Any]]]:
    specialist, objective, rows = setting(llama, **keys)
    train = TrainKeys.model_validate(
        {"epochs": steps, "batch_size": 6, "learning_rate": rate, "average": 0.0, "micro_batch_size": 3, "warmup_ratio": 0.0, "scheduler": "constant", "weight_decay": 0.0}
    )
    learner = TorchLearner(specialist, objective, objective.examples(specialist, rows, 40), train, 7, "fp32")
    learner.begin()
    return learner, specialist, rows


with_updates = learner_of


@pytest.mark.parametrize("updates", [1, 2])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(llama: Path, updates: int) -> None:
    def learner_of(llama: Path) -> tuple[TorchLearner, Any, list[dict[str, Any]]]:
        return with_updates(llama, updates_per_rollout=updates)

    whole, *_ = learner_of(llama)
    for step in range(4):
        whole.step(step)
    first, *_ = learner_of(llama)
    for step in range(2):
        first.step(step)
    tensors, facts = first.state()
    second, *_ = learner_of(llama)
    second.load_state({name: one.clone() for name, one in tensors.items()}, facts)
    for step in range(2, 4):
        second.step(step)
    told, found = whole.weights(), second.weights()
    assert all(torch.equal(told[name], found[name]) for name in told)
    third, *_ = learner_of(llama)
    third.load_state({name: one.clone() for name, one in tensors.items()}, facts)
    for step in range(3, 5):  # must fail: another step draws other answers
        third.step(step)
    assert not all(torch.equal(told[name], one) for name, one in third.weights().items())


def test_the_reward_rises_on_prompts_and_validation_says_so(llama: Path) -> None:
    learner, *_ = learner_of(llama, steps=30, group=8)
    assert not learner.watchman.loss_falls
    before = learner.validation_loss(learner.examples)
    for step in range(30):
        learner.step(step)
    after = learner.validation_loss(learner.examples)
    assert -1 <= after < before - 0.3
    assert before == pytest.approx(learner_of(llama, group=8)[0].validation_loss(learner.examples)), "validation draws the same answers each time"
