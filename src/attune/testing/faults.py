"""Planted faults: small worlds (a base, rows, a recipe) in which training would go wrong without a word, and clean ones in which nothing is wrong.
They show that the tripwires see the first kind and leave the second alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.contracts import Batch, Example, Objective, Task
from attune.core.recipe import Recipe, make_recipe
from attune.core.shapes import LABELLED_ROLES, PREFERENCE_ROLES, labelled_of, preference_of
from attune.testing.models import CHAT_TEMPLATE, tiny_llama

COUNT = 48
NAMES = ("parcel", "refund", "login", "invoice", "address", "voucher")
ENDS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
"""A plain template whose answers end with the tokenizer's end token."""
IGNORED = -100
Turn = dict[str, Any]


def question(number: int) -> str:
    """The question of row `number`."""
    return f"Where can I see the state of {NAMES[number % 6]} number {number}?"


def answer(number: int) -> str:
    """Its answer."""
    return f"Open your account, choose {NAMES[number % 6]} and look at entry {number}."


def talk(number: int, *more: Turn, first: Sequence[Turn] = ()) -> list[Turn]:
    """Question and answer as turns."""
    return [*first, {"role": "user", "content": question(number)}, {"role": "assistant", "content": answer(number)}, *more]


def _row_checks() -> list[str]:
    """The task's checks of single rows: the worlds' rows are alike, which the others would say."""
    names: tuple[str, ...] = catalog.load("tasks", "text_generation").defaults.checks  # type: ignore[attr-defined]
    return [name for name in names if catalog.load("checks", name).phase == "row"]  # type: ignore[attr-defined]


@dataclass
class World:
    """A folder with a base and rows, and a recipe.

    Args:
        folder: empty.
        shared: folder of real weights, for worlds that need some.
    """

    folder: Path
    shared: Path | None = None
    template: str | None = CHAT_TEMPLATE
    rows: list[dict[str, Any]] = field(default_factory=lambda: [{"messages": talk(i)} for i in range(COUNT)])
    recipe: dict[str, Any] = field(default_factory=dict)
    change_base: Callable[[Path], None] | None = None
    objective: Callable[[Objective], Objective] | None = None
    """Puts another objective in the place of sft."""
    bad: frozenset[int] = frozenset()
    """Rows, counted from 0, that are to be set aside; none: the whole run is to be refused."""

    @property
    def planted(self) -> int:
        """How many rows are to be set aside."""
        return len(self.bad)

    def made(self) -> Recipe:
        """Write everything and read the recipe."""
        base = self.folder / "base"
        if not base.exists():
            texts = [text for i in range(COUNT) for text in (question(i), answer(i))]
            tiny_llama(base, [*texts, "system tool user assistant Be brief."], chat_template=self.template)
        if self.change_base is not None:
            self.change_base(base)
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows), encoding="utf-8")
        values = {
            "name": "speaker",
            "task": {"name": "text_generation", "max_new_tokens": 4},
            "base_model": "base",
            "data": {"path": "rows.jsonl", "checks": _row_checks()},
            "method": "lora",
            **self.recipe,
        }
        values["train"] = {"max_length": 160, "batch_size": 6, "epochs": 2, "refit": False, "precision": "fp32", **values.get("train", {})}
        recipe = make_recipe(values, folder=self.folder)
        if self.objective is None:
            return recipe
        built = self.objective(recipe.objective)
        return replace(recipe, objective=built, task=built.shaped(recipe.task))


@dataclass(frozen=True)
class Fault:
    """One planted fault."""

    name: str
    what: str
    plant: Callable[[World], None]
    by: str
    """What is to notice it: a tripwire's name, or 'reading', 'a check', 'the objective', 'the base', 'the recipe'."""
    trl: bool = True
    """Whether TRL's trainer can be given the same fault."""


# ---------------------------------------------------------------- objectives that are wrong on purpose


def _sft() -> type[Any]:
    found: type[Any] = catalog.load("objectives", "sft")
    return found


def _with_targets(change: Callable[[list[int], list[int]], list[int]]) -> Callable[[Objective], Objective]:
    """sft whose batches have other targets."""

    def make(objective: Objective) -> Objective:
        class Wrong(_sft()):  # type: ignore[misc]
            def collate(self, specialist: Any, examples: Sequence[Example]) -> Batch:
                changed = [{**one, "targets": change(one["ids"], one["targets"])} for one in examples]
                found: Batch = super().collate(specialist, changed)
                return found

        return Wrong(objective.keys)

    return make


def _on_rows(roles: Any, parse: Any) -> Callable[[Objective], Objective]:
    """sft on the rows of another objective."""

    def make(objective: Objective) -> Objective:
        class Shaped(_sft()):  # type: ignore[misc]
            def shaped(self, task: Task) -> Task:
                return task.with_rows(roles, parse)

        return Shaped(objective.keys)

    return make


def _reference_moves(objective: Objective) -> Objective:
    """dpo whose reference is the model that trains."""
    plug: type[Any] = type(objective)

    class Moving(plug):  # type: ignore[misc]
        def collate(self, specialist: Any, examples: Sequence[Example]) -> Batch:
            import torch

            from attune.core.replies import log_probabilities

            found: Batch = super().collate(specialist, examples)
            with torch.no_grad():
                found["reference"] = log_probabilities(specialist.model, found["tokens"], found["begins"])[0].view(-1, 2)
            return found

    return Moving(objective.keys)


def _compared_with_itself(objective: Objective) -> Objective:
    """grpo whose untouched base is the model that trains."""
    plug: type[Any] = type(objective)

    class Itself(plug):  # type: ignore[misc]
        def _untouched(self, specialist: Any) -> Any:
            return specialist.model

    return Itself(objective.keys)


# ---------------------------------------------------------------- bases that are wrong on purpose


def _edit(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def work(base: Path) -> None:
        path = base / name
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    return work


def _weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def work(base: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = base / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})

    return work


def _no_end_vector(tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        if "embed_tokens" in name or "lm_head" in name:
            tensor[1] = 0  # </s>
            tensor[3] = 0  # <|end|>


def _not_a_number(tensors: dict[str, Any]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")


def _missing_weight(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _more_tokens(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["account"])
    tokenizer.save_pretrained(base)


def _few_letters(base: Path) -> None:
    """A tokenizer of whole known words, with <unk> for every other."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for i in range(COUNT) for word in question(i).replace("?", " ?").split()} | {"user", "assistant", ":", "\n"})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")  # type: ignore[no-untyped-call]
    fast.chat_template = ENDS
    fast.save_pretrained(base)


def _shuffled_vocabulary(base: Path) -> None:
    """The ids of ordinary tokens changed about, as another model's tokenizer would have them."""
    path = base / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = values["model"]["vocab"]
    fixed = {one["content"] for one in values["added_tokens"]}
    free = [name for name in vocabulary if name not in fixed and not (name.startswith("<0x") and name.endswith(">"))]
    ids = [vocabulary[name] for name in free]
    values["model"]["vocab"] |= dict(zip(free, ids[len(ids) // 2 :] + ids[: len(ids) // 2], strict=True))
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def real_weights(world: World) -> None:
    """Put the small model with real weights in place of the random one; needs the shared folder."""
    import shutil

    assert world.shared is not None
    shutil.copytree(world.shared / "weights" / "stories260K" / "hf", world.folder / "base")
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friend"
    world.rows = [{"prompt": f"{text} {NAMES[i % 6]} {i}.", "completion": f"One day, she saw a big red ball number {i}. She was very happy."} for i in range(COUNT)]
    world.recipe["method"] = "full"


# ---------------------------------------------------------------- the faults


def _plant(**changes: Any) -> Callable[[World], None]:
    def work(world: World) -> None:
        for name, value in changes.items():
            setattr(world, name, value() if callable(value) and name == "rows" else value)

    return work


def _some(change: Callable[[int], dict[str, Any]], every: int = 6) -> Callable[[World], None]:
    """Every so many rows are bad ones, to be set aside."""

    def work(world: World) -> None:
        world.bad = frozenset(range(0, COUNT, every))
        world.rows = [change(i) if i in world.bad else row for i, row in enumerate(world.rows)]

    return work


def _equal_answers(world: World) -> None:
    world.objective = _on_rows(PREFERENCE_ROLES, preference_of)
    world.rows = [{"prompt": question(i), "chosen": answer(i), "rejected": "No." if i % 6 else answer(i)} for i in range(COUNT)]
    world.bad = frozenset(range(0, COUNT, 6))


def _stories(world: World) -> None:
    real_weights(world)
    world.change_base = _shuffled_vocabulary


SYSTEM = [{"role": "system", "content": "Be brief and kind."}]
TWICE = "{{ bos_token }}" + CHAT_TEMPLATE
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT_TEMPLATE
LOSES_SYSTEM = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages %}{% if m['role'] != 'system' %}").replace("{% endfor %}", "{% endif %}{% endfor %}")
LOSES_TOOL = LOSES_SYSTEM.replace("!= 'system'", "!= 'tool'")
NO_PROMPT = CHAT_TEMPLATE.split("{% if add_generation_prompt %}")[0]
REWRITES = CHAT_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else m['content'] | upper }}")


def _rewards(*rewards: str | dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A recipe with grpo on short answers; by default vowels are paid."""
    return {"objective": {"name": "grpo", "rewards": list(rewards or [{"name": "regex", "pattern": "[aeiou]"}]), "group": 4, "max_new_tokens": 4, **keys}}


def _prompts() -> list[dict[str, Any]]:
    return [{"prompt": question(i)} for i in range(COUNT)]


def _preferences() -> list[dict[str, Any]]:
    return [{"prompt": question(i), "chosen": answer(i), "rejected": "No."} for i in range(COUNT)]


def _called(number: int) -> dict[str, Any]:
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"entry": number}}}]}
    return {"messages": [talk(number)[0], call, {"role": "tool", "content": f"entry {number} is there"}, talk(number)[1]]}


FAULTS: tuple[Fault, ...] = (
    Fault("every_turn_masked", "every answer says train: false", _plant(rows=lambda: [{"messages": [{**m, "train": False} for m in talk(i)]} for i in range(COUNT)]), "reading"),
    Fault("answers_cut", "answers are longer than max_length", _plant(recipe={"train": {"max_length": 10}}), "the objective"),
    Fault(
        "end_masked_as_padding",
        "padding is the end token, and targets equal to padding are masked",
        _plant(template=ENDS, objective=_with_targets(lambda ids, t: [IGNORED if one == 1 else one for one in t])),
        "end_not_learned",
        trl=False,
    ),
    Fault("all_masked", "the mask covers every token", _plant(objective=_with_targets(lambda ids, t: [IGNORED] * len(t))), "nothing_learned", trl=False),
    Fault(
        "mask_shifted",
        "the mask lies on the question",
        _plant(objective=_with_targets(lambda ids, t: [IGNORED, *(a if b == IGNORED else IGNORED for a, b in zip(ids[1:], t[1:], strict=True))])),
        "end_not_learned",
        trl=False,
    ),
    Fault(
        "mask_begins_late",
        "the first half of every answer is masked",
        _plant(objective=_with_targets(lambda ids, t: [IGNORED if i < len(t) - 6 else one for i, one in enumerate(t)])),
        "answer_not_learned",
        trl=False,
    ),
    Fault("end_token_untrained", "the base never learned its end token, LoRA does not train the output layer", _plant(change_base=_weights(_no_end_vector)), "end_cannot_be_learned"),
    Fault("begin_token_twice", "the chat template writes two begin tokens", _plant(template=TWICE), "double_begin"),
    Fault("begin_token_in_text", "texts begin with the begin token", _some(lambda i: {"messages": [{"role": "user", "content": "<s>" + question(i)}, talk(i)[1]]}), "a check"),
    Fault("rendered_already", "texts hold another template's signs", _some(lambda i: {"prompt": f"<|im_start|>user\n{question(i)}<|im_end|>", "completion": answer(i)}), "a check"),
    Fault(
        "control_token_in_text",
        "some texts hold this base's control token",
        _some(lambda i: {"messages": [{"role": "user", "content": f"{question(i)}<|start|>"}, talk(i)[1]]}, every=5),
        "control_tokens_in_text",
    ),
    Fault(
        "system_refused",
        "the template refuses system turns, which some rows have",
        _plant(template=NO_SYSTEM, bad=frozenset(range(0, COUNT, 7)), rows=lambda: [{"messages": talk(i, first=SYSTEM if i % 7 == 0 else ())} for i in range(COUNT)]),
        "template_refuses",
    ),
    Fault("system_lost", "the template leaves system turns out", _plant(template=LOSES_SYSTEM, rows=lambda: [{"messages": talk(i, first=SYSTEM)} for i in range(COUNT)]), "template_loses_text"),
    Fault("tool_answers_lost", "the template leaves functions' answers out", _plant(template=LOSES_TOOL, rows=lambda: [_called(i) for i in range(COUNT)]), "template_loses_text"),
    Fault("no_generation_prompt", "the template ignores add_generation_prompt", _plant(template=NO_PROMPT), "answer_begins_elsewhere"),
    Fault(
        "template_rewrites", "the template writes earlier turns differently", _plant(template=REWRITES, rows=lambda: [{"messages": [*talk(i), *talk(i + 1)]} for i in range(COUNT)]), "the objective"
    ),
    Fault("two_templates", "the base holds two templates that differ", _plant(change_base=_edit("tokenizer_config.json", lambda v: v.update(chat_template=ENDS))), "two_templates"),
    Fault("letters_unknown", "the tokenizer has no letters for the answers", _plant(template=None, change_base=_few_letters), "tokenizer_cannot_write"),
    Fault("one_answer", "every row has the same answer", _plant(rows=lambda: [{"prompt": question(i), "completion": "Thank you for writing to us."} for i in range(COUNT)]), "same_answer"),
    Fault("answer_is_question", "the answer's column holds the question", _plant(rows=lambda: [{"prompt": question(i), "completion": question(i)} for i in range(COUNT)]), "answer_is_question"),
    Fault(
        "equal_preferences",
        "chosen and rejected are the same in some rows",
        _equal_answers,
        "reading",
    ),
    Fault(
        "equal_when_read",
        "some chosen and rejected answers differ only in a letter that nobody sees",
        _plant(
            rows=lambda: [{"prompt": question(i), "chosen": answer(i), "rejected": answer(i) + " " * 2 + "x" if i % 6 else "​" + answer(i)} for i in range(COUNT)],
            objective=_on_rows(PREFERENCE_ROLES, preference_of),
            bad=frozenset(range(0, COUNT, 6)),
        ),
        "equal_preference",
    ),
    Fault(
        "one_kind_of_label",
        "every answer is labelled good",
        _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i), "label": True} for i in range(COUNT)], objective=_on_rows(LABELLED_ROLES, labelled_of)),
        "one_kind_of_label",
    ),
    Fault("bad_answers_among_good", "some answers are labelled bad, and sft learns every answer", _some(lambda i: {"prompt": question(i), "completion": "Go away.", "label": False}), "reading"),
    Fault("empty_answers", "some answers are empty", _some(lambda i: {"messages": [talk(i)[0], {"role": "assistant", "content": " "}]}), "reading"),
    Fault("turns_out_of_order", "some conversations have two turns of one speaker in a row", _some(lambda i: {"messages": [talk(i)[0], *talk(i)]}), "reading"),
    Fault("pictures", "some rows show a picture that nobody reads", _some(lambda i: {"messages": talk(i), "images": ["a.jpg"]}), "reading"),
    Fault("tokens_without_vectors", "tokens were added and the model was not resized", _plant(change_base=_more_tokens), "vocabulary_too_small"),
    Fault(
        "beyond_the_positions",
        "rows are longer than the base has positions for",
        _plant(rows=lambda: [{"prompt": " ".join(question(i + j) for j in range(30)), "completion": answer(i)} for i in range(COUNT)], recipe={"train": {"max_length": 900}}),
        "row_too_long",
    ),
    Fault("weights_not_numbers", "a weight of the base is no number", _plant(change_base=_weights(_not_a_number)), "weights_no_numbers"),
    Fault("weights_missing", "a weight matrix of the base is missing", _plant(change_base=_weights(_missing_weight)), "the base"),
    Fault("other_tokenizer", "the tokenizer is another model's", _stories, "wrong_tokenizer"),
    Fault("adapter_without_effect", "the adapter's scale is so small that it changes nothing", _plant(recipe={"method": {"name": "lora", "alpha": 1e-30}}), "nothing_moves"),
    Fault("learning_rate_without_effect", "the learning rate moves no weight", _plant(recipe={"method": "full", "train": {"learning_rate": 1e-20}}), "nothing_moves"),
    Fault(
        "flat_reward",
        "the reward looks for a form that no answer has",
        _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i)} for i in range(COUNT)], recipe=_rewards({"name": "regex", "pattern": "answer:"}, "exact_match", weights=[1.0, 0.0])),
        "reward_is_flat",
    ),
    Fault(
        "reward_never_paid",
        "prompts alone, and a reward for a form in which the base never answers",
        _plant(rows=_prompts, recipe=_rewards({"name": "regex", "pattern": "^<answer>[0-9]+</answer>$"})),
        "reward_is_flat",
        trl=False,
    ),
    Fault("reference_moves", "the reference is the model that trains", _plant(rows=_preferences, recipe={"objective": "dpo"}, objective=_reference_moves), "reference_is_model"),
    Fault(
        "kl_from_itself",
        "the divergence of grpo is taken from the model that trains",
        _plant(rows=_prompts, recipe=_rewards(beta=0.1), objective=_compared_with_itself),
        "reference_is_model",
        trl=False,
    ),
    Fault("teacher_is_student", "the teacher is the untouched model itself", _plant(recipe={"objective": {"name": "distillation", "teacher": "base"}}), "teacher_is_student", trl=False),
    Fault(
        "nobody_teaches",
        "no teacher is named, and the rows' own answers count nothing",
        _plant(recipe={"objective": {"name": "distillation", "supervised_share": 0.0}}),
        "teacher_is_student",
        trl=False,
    ),
    Fault("quantised_base", "the base was quantised before", _plant(change_base=_edit("config.json", lambda v: v.update(quantization_config={"quant_method": "gptq", "bits": 4}))), "base_quantised"),
)


# ---------------------------------------------------------------- clean worlds


def _alpaca(number: int) -> dict[str, Any]:
    return {"instruction": question(number), "input": "", "output": answer(number)}


def _sharegpt(number: int) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question(number)}, {"from": "gpt", "value": answer(number)}]}


CLEAN: dict[str, Callable[[World], None]] = {
    "messages": _plant(),
    "messages, full": _plant(recipe={"method": "full"}),
    "default template": _plant(template=None),
    "end token of the tokenizer": _plant(template=ENDS),
    "alpaca": _plant(rows=lambda: [_alpaca(i) for i in range(COUNT)]),
    "sharegpt": _plant(rows=lambda: [_sharegpt(i) for i in range(COUNT)], template=None),
    "prompt and completion": _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i)} for i in range(COUNT)]),
    "mixed shapes": _plant(rows=lambda: [(_alpaca, _sharegpt)[i % 2](i) for i in range(COUNT)]),
    "system turns": _plant(rows=lambda: [{"messages": talk(i, first=SYSTEM)} for i in range(COUNT)]),
    "several turns": _plant(rows=lambda: [{"messages": [*talk(i), *talk(i + 1)]} for i in range(COUNT)]),
    "several turns, the first not learned": _plant(rows=lambda: [{"messages": [talk(i)[0], {**talk(i)[1], "train": False}, *talk(i + 1)]} for i in range(COUNT)]),
    "functions": _plant(rows=lambda: [_called(i) for i in range(COUNT)], recipe={"train": {"max_length": 240}}),
    "the question is learned too": _plant(recipe={"objective": {"name": "sft", "train_on_prompt": True}}),
    "few answers": _plant(rows=lambda: [{"prompt": question(i), "completion": NAMES[i % 3]} for i in range(COUNT)]),
    "small learning rate": _plant(recipe={"method": "full", "train": {"learning_rate": 1e-6}}),
    "last layer only": _plant(recipe={"method": {"name": "full", "layers": 1}}),
    "low rank": _plant(recipe={"method": {"name": "lora", "rank": 1, "alpha": 1, "dropout": 0.1}}),
    "accents and other scripts": _plant(rows=lambda: [{"prompt": question(i), "completion": f"Öffnen Sie das Konto № {i}: 是的 🙂"} for i in range(COUNT)]),
    "long questions are cut": _plant(rows=lambda: [{"prompt": " ".join(question(i + j) for j in range(12)), "completion": answer(i)} for i in range(COUNT)], recipe={"train": {"max_length": 80}}),
    "segments": _plant(rows=lambda: [{"segments": [{"label": False, "text": f"Q: {question(i)}\nA:"}, {"label": True, "text": f" {answer(i)}</s>"}]} for i in range(COUNT)]),
    "preferences": _plant(rows=lambda: [{"prompt": question(i), "chosen": answer(i), "rejected": "No."} for i in range(COUNT)], objective=_on_rows(PREFERENCE_ROLES, preference_of)),
    "preferences, dpo": _plant(rows=_preferences, recipe={"objective": "dpo"}),
    "labelled answers, kto": _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i), "label": i % 2 == 0} for i in range(COUNT)], recipe={"objective": "kto"}),
    "rewards": _plant(rows=_prompts, recipe=_rewards()),
    "rewards, and a reference": _plant(rows=_prompts, recipe=_rewards(beta=0.1)),
    "rewards for right answers": _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i)} for i in range(COUNT)], recipe=_rewards("exact_match", {"name": "regex", "pattern": "[aeiou]"})),
    "the base teaches, so that what it knew is kept": _plant(recipe={"objective": "distillation"}),
    "labelled answers": _plant(rows=lambda: [{"prompt": question(i), "completion": answer(i), "label": i % 2 == 0} for i in range(COUNT)], objective=_on_rows(LABELLED_ROLES, labelled_of)),
}
"""Name -> what makes the world; none of them may raise an alarm that blocks."""


def real_clean(world: World) -> None:
    """A clean world on real weights; needs the shared folder."""
    real_weights(world)
