"""The torch learner: one optimizer step as a pure function of (weights, optimizer state, seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from attune.core.contracts import Example, Objective
from attune.core.errors import DataError, RecipeError
from attune.core.flat import key_dropout, network_of, noise
from attune.core.randomness import key as random_key
from attune.core.recipe import TrainKeys
from attune.core.specialist import Specialist
from attune.stages.finetune.compact import compacted
from attune.stages.finetune.plan import length_grouped, rate_factor
from attune.stages.finetune.prefix import Prefix, frozen_layers

Tensors = dict[str, torch.Tensor]
LEFT = "unused embedding rows"


class TorchLearner:
    """Gradient descent with AdamW over the parameters that a method marked.

    Args:
        specialist: model prepared by its method.
        objective: makes batches and losses.
        examples: encoded training rows.
        keys: the recipe's `train` section.
        seed: the recipe's seed.
        precision: fp32 or bf16 (autocast; weights, optimizer state and losses stay float32).
        cache: folder for what frozen layers answer to the training rows; None: compute it each time.
    """

    def __init__(self, specialist: Specialist, objective: Objective, examples: Sequence[Example], keys: TrainKeys, seed: int, precision: str, cache: Path | None = None) -> None:
        assert specialist.method is not None
        self._specialist = specialist
        self.model = specialist.model
        self.objective = objective
        self.examples = examples
        self.keys = keys
        self.seed = seed
        self.precision = precision
        self.batch_size = keys.batch_size
        self.micro_batch_size = keys.micro_batch_size or keys.batch_size
        if self.micro_batch_size < self.batch_size and not objective.separable:
            raise RecipeError(
                f"objective '{objective.name}' learns from all rows of a batch together, so a batch of {self.batch_size} cannot be computed in parts of {self.micro_batch_size}",
                place="train.micro_batch_size",
                fix="leave it out, or lower train.batch_size to what fits into memory",
            )
        self.average = keys.average
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = math.ceil((keys.epochs or specialist.method.epochs) * self.steps_per_epoch)
        self.compact = compacted(self.model.body, examples)
        """The embedding of the tokens in use, where the whole table trains."""
        self.average_left = 1.0
        """As `compact.left`, for the averaged weights."""
        self.chosen = {"batches": self.model.fit.why if not self.model.body_is_frozen() else "features of the frozen body"}
        if self.compact is not None:
            self.chosen["embedding"] = f"{len(self.compact.used):,} of {len(self.compact.place):,} rows stand in the training rows and are computed; the others only decay"
        if self.model.fit.flat:
            key_dropout(self.model.body)
        depth = frozen_layers(self.model.body) if cache is not None and self.model.fit.flat and not self.model.body_is_frozen() and all("ids" in one for one in examples) else 0
        if cache is not None and depth:
            prefix = Prefix(self.model, examples, depth, cache, specialist.base.identity, precision)
            self.chosen["frozen layers"] = f"the answers of the first {depth} layers {'were there from an earlier run' if prefix.reused else 'were computed once'} ({prefix.size / 1e6:,.0f} MB)"
        if keys.dropout is not None:
            for name, module in self.model.body.named_modules():
                if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
                    module.p = keys.dropout
        self.model.eval()  # all of it: `step` only looks at the top
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.embedding_rate = keys.learning_rate or specialist.method.learning_rate
        self.optimizer = torch.optim.AdamW(self._groups(self.embedding_rate), fused=True, eps=1e-6)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.averaged = {name: p.detach().clone() for name, p in self.trained.items()} if self.average else {}

    def begin(self) -> None:
        """The average starts where the weights start."""
        self.averaged = {name: p.detach().clone() for name, p in self.trained.items()} if self.average else {}

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        """Head and body have rates of their own; biases and norms (one-dimensional weights) do not decay."""
        head_rate = self.keys.head_learning_rate or max(1e-3, rate)
        groups: dict[tuple[float, float], list[torch.Tensor]] = {}
        for name, parameter in self.trained.items():
            decay = self.keys.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((head_rate if name.startswith("head.") else rate, decay), []).append(parameter)
        return [{"params": parameters, "lr": peak, "weight_decay": decay} for (peak, decay), parameters in groups.items()]

    def _batches(self, epoch: int) -> list[list[int]]:
        if self._epoch[0] != epoch:
            own = self.objective.order(self.examples, self.batch_size, self.seed, epoch)
            self._epoch = (epoch, own if own is not None else length_grouped([e["size"] for e in self.examples], self.batch_size, self.seed, epoch))
        return self._epoch[1]

    def batch_at(self, index: int) -> list[Example]:
        """The rows of a step."""
        epoch, place = divmod(index, self.steps_per_epoch)
        return [self.examples[i] for i in self._batches(epoch)[place]]

    def step(self, index: int) -> dict[str, float]:
        """One optimizer step: micro-batches are summed, then divided by the supervised items of the whole step."""
        if not self.model.training:  # setting it walks through every module
            self.model.train()
        factor = rate_factor(index, self.total_steps, self.keys.warmup_ratio, self.keys.scheduler)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        rows = self.batch_at(index)
        total, items = 0.0, 0.0
        for micro, begin in enumerate(range(0, len(rows), self.micro_batch_size)):
            batch = self.objective.collate(self._specialist, rows[begin : begin + self.micro_batch_size])
            if not self.model.fit.flat:  # a padded network draws its dropout from torch's own stream
                torch.default_generator.manual_seed(random_key(self.seed, "dropout", index, micro))
            with noise(random_key(self.seed, "dropout", index)), self._autocast():
                loss, count = self.objective.loss(self.model, batch)
            value = loss.item()
            if not math.isfinite(value):
                raise DataError(
                    f"the loss is {value} at step {index + 1}",
                    place="rows " + ", ".join(str(e["row_id"]) for e in rows[begin : begin + self.micro_batch_size][:8]),
                    fix="look at these rows; then lower train.learning_rate or set train.precision to fp32",
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total, items = total + value, items + count
        if items == 0:
            raise DataError(f"step {index + 1} has nothing to learn from", place="rows " + ", ".join(str(e["row_id"]) for e in rows[:8]), fix="give rows with targets, or raise train.max_length")
        parameters = list(self.trained.values())
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], items)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.keys.max_gradient_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.compact is not None:
            self.compact.left *= 1 - self.embedding_rate * factor * self.keys.weight_decay
        if self.average:
            decay = min(self.average, (1 + index) / (10 + index))
            torch._foreach_lerp_(list(self.averaged.values()), [p.detach() for p in parameters], 1 - decay)
            if self.compact is not None:
                self.average_left += (self.compact.left - self.average_left) * (1 - decay)
        return {"loss": total / items, "items": items, "learning_rate": self.peaks[0] * factor, "gradient_norm": norm}

    def _autocast(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def settled(self) -> Iterator[Specialist]:
        """The specialist with the weights that count: the averaged ones when averaging is on."""
        if not self.averaged:
            yield self._specialist
            return
        own = {name: tensor.clone() for name, tensor in self._moving().items()}
        self._set(self._averaged())
        try:
            yield self._specialist
        finally:
            self._set(own)

    def validation_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over examples in evaluation mode; the caller chooses the weights with `settled`."""
        self.model.eval()
        total, items = 0.0, 0.0
        with torch.no_grad():
            for begin in range(0, len(examples), self.micro_batch_size):
                loss, count = self.objective.loss(self.model, self.objective.collate(self._specialist, examples[begin : begin + self.micro_batch_size]))
                total, items = total + loss.item(), items + count
        return total / items if items else math.nan

    def weights(self) -> Tensors:
        """Copies of the trained weights, as they stand."""
        return {name: tensor.clone() for name, tensor in self._moving().items()}

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the trained weights for good: the embedding is whole again, and training cannot go on."""
        self._set(tensors)
        if self.compact is not None:
            network_of(self.model.body).set_input_embeddings(self.compact.restored())
            self.compact = None

    def _moving(self) -> Tensors:
        """Everything that training moves: the trained weights, and what decay has left of the unused embedding rows."""
        left = {LEFT: torch.tensor(self.compact.left, dtype=torch.float64)} if self.compact is not None else {}
        return {name: p.detach() for name, p in self.trained.items()} | left

    def _averaged(self) -> Tensors:
        return self.averaged | ({LEFT: torch.tensor(self.average_left, dtype=torch.float64)} if self.compact is not None else {})

    def _set(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])
        if self.compact is not None:
            self.compact.left = float(tensors[LEFT])

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Trained weights, averaged weights and optimizer moments; everything else follows from the step number."""
        tensors: Tensors = {f"weight/{name}": tensor for name, tensor in self._moving().items()}
        if self.averaged:
            tensors |= {f"average/{name}": tensor for name, tensor in self._averaged().items()}
        for name, parameter in self.trained.items():
            for part, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{part}/{name}"] = value
        return tensors, {"total_steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}

    def load_state(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Back to the moment of `state`; refuses the state of another plan."""
        for name in ("total_steps", "steps_per_epoch"):
            if facts[name] != getattr(self, name):
                raise DataError(f"the checkpoint was written with {name} {facts[name]}, this run has {getattr(self, name)}", place="resume", fix="run with --fresh")
        self._set({key.removeprefix("weight/"): value for key, value in tensors.items() if key.startswith("weight/")})
        for name in self.averaged:
            self.averaged[name].copy_(tensors[f"average/{name}"])
        if self.averaged and self.compact is not None:
            self.average_left = float(tensors[f"average/{LEFT}"])
        for name, parameter in self.trained.items():
            parts = {key.split("/", 2)[1]: value for key, value in tensors.items() if key.startswith("optimizer/") and key.split("/", 2)[2] == name}
            if parts:
                self.optimizer.state[parameter] = {part: value.clone() for part, value in parts.items()}
