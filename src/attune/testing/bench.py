"""A bench to try plugs on: a small model, rows made from a task's roles, and a specialist tuned for a few steps."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from attune.core import catalog, rows
from attune.core.commit import committed_folder
from attune.core.contracts import Example, Method, Objective, Prediction, ProbeContext, RivalContext, Role, Row, Signature, Task
from attune.core.errors import PlugError
from attune.core.learner import LearnerContext
from attune.core.models import NO_BASE, Base, resolve_base
from attune.core.randomness import key as random_key
from attune.core.recipe_train import TrainKeys
from attune.core.specialist import Specialist, write_bundle
from attune.testing.models import tiny_bert, tiny_llama

ROWS = 36
TABLE_ROWS = 156
"""Trees need more rows to split than a network needs to be moved."""
TOPICS = {
    "delivery": ("parcel", "late", "courier", "track"),
    "refund": ("money", "back", "return", "paid"),
    "login": ("password", "locked", "account", "code"),
}
KINDS = (frozenset({"text-in", "torch"}), frozenset({"table-in", "label-out"}))
"""Traits of the tasks for which there is a small model."""
OPENINGS = ("please help with the", "there is trouble with a", "question about my", "again the same")
MAX_LENGTH = 48


def record(role: Role, number: int) -> Any:
    """A raw value for a role in row `number`: the topic goes round, the wording differs from row to row."""
    topic = sorted(TOPICS)[number % len(TOPICS)]
    words = TOPICS[topic]
    text = f"{OPENINGS[number // 3 % 4]} {words[number % 4]} {words[number // 2 % 4]} number {number}"
    if role.type == "text":
        return f"{topic} {words[0]} case {number % 18}" if role.target else text  # row 18 has the right text of row 0 again
    if role.type == "features":
        amount = None if number % 11 == 5 else float((number * 37) % 90 + 100 * (number % 3))
        return {"amount": amount, "kind": topic if number % 4 else words[number % 4], "age": number * 13 % 60, "code": f"c{number % 5}"}
    made: dict[str, Any] = {"label": topic, "labels": [topic], "number": float(number), "messages": [{"role": "user", "content": text}], "any": text, "flag": number % 2 == 0}
    return made[role.type]


@dataclass
class Bench:
    """One task with a base, rows and what is needed to tune on them.

    Args:
        task: the task on the bench.
        base: a small base model that suits it.
        records: raw records, a column per role.
        folder: scratch room.
    """

    task: Task
    base: Base
    records: Sequence[dict[str, Any]]
    folder: Path
    max_length: int = MAX_LENGTH
    _tuned: dict[str, Specialist] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roles = {role.name for role in self.task.roles}
        cells = [name for name in self.records[0] if name not in roles]
        self.columns: dict[str, Any] = {role.name: cells if role.type == "features" else role.name for role in self.task.roles}
        self.rows: list[Row] = []
        for number, values in enumerate(self.records):
            parsed = self.task.parse(copy.deepcopy(values), self.columns)
            self.rows.append({"row_id": rows.row_id(parsed, number), "place": f"bench:{number + 1}", **parsed})
        self.train, self.validation, self.test = self.rows[:-12], self.rows[-12:-6], self.rows[-6:]
        self.signature: Signature = self.task.signature(self.train)

    def shaped(self, objective: Objective) -> Bench:
        """This bench over the rows that an objective learns from; where these are others, with a record of each further role."""
        task = objective.shaped(self.task)
        if task is self.task:
            return self
        known = {role.name for role in self.task.roles}
        more = [role for role in task.roles if role.name not in known]
        records = [{**values, **{role.name: record(role, number + (role.type == "text")) for role in more}} for number, values in enumerate(self.records)]
        return Bench(task, self.base, records, self.folder, self.max_length)

    def questions(self) -> list[Row]:
        """The test rows without their targets."""
        targets = {role.name for role in self.task.roles if role.target}
        return [{name: value for name, value in row.items() if name not in targets} for row in self.test]

    def objective(self) -> Objective:
        """The task's default objective."""
        built: Objective = catalog.build("objectives", self.task.defaults.objective)
        return built

    def method(self) -> Method:
        """The task's default method."""
        built: Method = catalog.build("methods", self.task.defaults.method)
        return built

    def prepared(self, method: Method, seed: int = 5) -> Specialist:
        """The base put together for the task and prepared by a method, untrained."""
        model = method.prepare(self.task.build(self.base, self.signature), seed)
        return Specialist(self.task, self.signature, model, self.base.tokenizer(), self.base, self.max_length, "bench", method=method)

    def examples(self, objective: Objective, specialist: Specialist) -> list[Example]:
        """The training rows as the objective encodes them, with what it computes ahead."""
        found = objective.examples(specialist, self.train, self.max_length)
        objective.precompute(specialist, found)
        return found

    def context(self, objective: Objective, specialist: Specialist, examples: Sequence[Example]) -> LearnerContext:
        """What a method's own learner is made from."""
        return LearnerContext(specialist, objective, examples, TrainKeys(), 5, 1)

    def learn(self, objective: Objective, specialist: Specialist, steps: int = 12) -> None:
        """Some steps of the method's own learner, else of gradient descent on batches of eight; ends in evaluation mode."""
        import torch

        assert specialist.method is not None
        examples = self.examples(objective, specialist)
        learner = specialist.method.learner(self.context(objective, specialist, examples))
        if learner is not None:
            learner.begin()
            for step in range(steps):
                learner.step(step)
            learner.load_weights(learner.weights())
            return
        trained = [p for p in specialist.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=specialist.method.learning_rate)
        specialist.model.train()
        for step in range(steps):
            chosen = [examples[(8 * step + i) % len(examples)] for i in range(min(8, len(examples)))]
            with torch.random.fork_rng():
                torch.manual_seed(random_key(5, "bench", step))
                total, count = objective.loss(specialist.model, objective.collate(specialist, objective.renew(specialist, chosen, 5, step)))
            (total / count).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        specialist.model.eval()

    def tuned(self, method: Method | None = None) -> Specialist:
        """A specialist tuned for a few steps by a method (default: the task's), made once per method."""
        method = method or self.method()
        name = json.dumps([method.name, method.keys.model_dump(mode="json")], sort_keys=True)
        if name not in self._tuned:
            specialist = self.prepared(method)
            self.learn(self.objective(), specialist)
            specialist.signature = self.task.settle(specialist, self.validation)
            self._tuned[name] = specialist
        return self._tuned[name]

    def bundle(self, specialist: Specialist, folder: Path) -> Path:
        """A committed bundle of a specialist."""
        with committed_folder(folder) as temporary:
            write_bundle(specialist, temporary)
        return folder

    def rival_context(self) -> RivalContext:
        """What rivals learn from; the test rows are not in it."""
        import numpy as np

        def untuned() -> Specialist:
            return Specialist(self.task, self.signature, self.task.build(self.base, self.signature), self.base.tokenizer(), self.base, self.max_length, "bench", "untouched")

        def embed(texts: Sequence[str]) -> np.ndarray:
            if not texts:
                return np.zeros((0, 0), dtype=np.float32)
            found = np.asarray(untuned().embed(texts), dtype=np.float32)
            scaled: np.ndarray = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
            return scaled

        return RivalContext(self.task, self.signature, self.train, self.validation, self.base, 5, untuned, embed, self.tuned)

    def probe_context(self) -> ProbeContext:
        """What probes look at: the tuned model, and the answers of everybody it is compared with."""
        context = self.rival_context()
        answers = {"tuned": self.tuned().examine(self.test), "untouched_base": self.answers(self.test, right=False)}
        return ProbeContext(self.tuned(), self.test, 5, self.train, context.untuned, answers)

    def answers(self, test: Sequence[Row], *, right: bool) -> list[Prediction]:
        """Perfect answers to rows, or answers that are wrong and sure of it, in the form of the task's `examine`."""
        return [self._answer(row, number, right) for number, row in enumerate(test)]

    def _answer(self, row: Row, number: int, right: bool) -> Prediction:
        truth = self.task.truth(row)
        labels = self.signature.get("labels")
        if "label-out" in self.task.traits and labels:
            held = set(truth) if isinstance(truth, list) else {truth}
            said = held if right else {next(label for label in labels if label not in held)}
            scores = {label: 0.98 if label in said else 0.02 / max(1, len(labels) - 1) for label in labels}
            return Prediction(sorted(said) if isinstance(truth, list) else min(said), scores, 0.98)
        if isinstance(truth, (int, float)):
            return Prediction(truth if right else truth + 1000.0)
        first = truth[0] if isinstance(truth, list) else truth
        if "vector-out" in self.task.traits:
            return Prediction([first, "something else"] if right else ["something else", "and another"])
        known: dict[str, Any] = {"nll": 0.5 if right else 40.0, "nll_tokens": 5, "hits": 5 if right else 0, "reward": 1.0 if right else 0.0} if "language-model" in self.task.traits else {}
        desirable = number % 2 == 0
        preferred: dict[str, Any] = {"margin": 1.0 if right else -1.0, "likelihood": -1.0 if desirable == right else -2.0, "desirable": desirable} if "prefers" in self.task.traits else {}
        return Prediction(first if right else "nothing of the kind", confidence=0.98, extra={**known, **preferred})


@cache
def scratch() -> Path:
    """A folder for this process's benches, removed when it ends."""
    room = tempfile.TemporaryDirectory(prefix="attune-bench-")
    _ROOMS.append(room)
    return Path(room.name)


_ROOMS: list[tempfile.TemporaryDirectory[str]] = []


@cache
def bench(task_name: str) -> Bench:
    """The bench of a task with a small model that suits its traits; raises PlugError when there is none for it."""
    task: Task = catalog.build("tasks", task_name)
    if not any(kind <= task.traits for kind in KINDS):
        raise PlugError(f"there is no small model for task '{task_name}' ({', '.join(sorted(task.traits))})", place="attune.testing", fix="make a Bench with a base of your own and hand it over")
    tables = "table-in" in task.traits
    records: list[dict[str, Any]] = []
    for number in range(TABLE_ROWS if tables else ROWS):
        values = {role.name: record(role, number) for role in task.roles if role.required or (role.target and role.type not in ("any", "flag"))}
        groups = [values.pop(role.name) for role in task.roles if role.type == "features"]
        records.append({**values, **{name: cell for group in groups for name, cell in group.items()}})
    folder = scratch() / task_name
    if tables:  # the general model: a few rounds on the same kind of rows
        general = Bench(task, resolve_base(NO_BASE), records, folder).tuned()
        assert general.method is not None
        made = folder / "base"
        made.mkdir(parents=True)
        general.method.save(general.model, made)
        return Bench(task, resolve_base(str(made)), records, folder)
    if "text-out" in task.traits:
        texts = [str(value) for values in records for value in values.values()]
        made = tiny_llama(folder / "base", texts)
    else:
        made = tiny_bert(folder / "base")
    return Bench(task, resolve_base(str(made)), records, folder)


def fitting(requires: frozenset[str]) -> list[str]:
    """Names of tasks that have the traits and for which there is a small model."""
    return [entry.name for entry in catalog.entries("tasks") if any(requires | kind <= set(entry.traits) for kind in KINDS)]


def mixed_targets(task: Task, test: Sequence[Row]) -> list[Row]:
    """The rows with their targets handed on to the next row: the same questions, other right answers; of two answers that are compared, the other one is right."""
    targets = [role.name for role in task.roles if role.target]
    if "score-out" in task.traits:  # what is right is which of a row's two answers is the better one: they change places
        return [{**row, "completion": row["rejected"], "rejected": row["completion"]} for row in test]
    return [{**row, **{name: test[(i + 1) % len(test)][name] for name in targets if name in row}} for i, row in enumerate(test)]


def plain(value: Mapping[str, Any]) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value))
