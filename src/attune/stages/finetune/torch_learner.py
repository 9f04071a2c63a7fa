"""The torch learner: one optimizer step as a pure function of (weights, optimizer state, seed, step)."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from attune.core import recurring
from attune.core.contracts import Batch, Example, Objective
from attune.core.errors import DataError, MachineError, RecipeError
from attune.core.events import Events
from attune.core.flat import Noise, add_noise, attention_words, network_of, noise
from attune.core.learner import Unsteady
from attune.core.low_rank import fuse_updates
from attune.core.memory import give_back, in_parts, ran_out
from attune.core.randomness import key as random_key
from attune.core.recipe_data import ReplayKeys
from attune.core.recipe_train import TrainKeys
from attune.core.specialist import Specialist
from attune.core.tokens import Tokens
from attune.core.turns import Turns
from attune.stages.finetune.cache import Cache, NoRoom
from attune.stages.finetune.compact import compacted
from attune.stages.finetune.compiling import Compiling, Unusable
from attune.stages.finetune.defence import LOWER, Watchman
from attune.stages.finetune.dropping import Dropping, dropouts, keyed
from attune.stages.finetune.joined import gradients_in_parts, loss_in_parts
from attune.stages.finetune.plan import evened, group_of, length_grouped, rate_factor
from attune.stages.finetune.prefix import Prefix, below, frozen_layers

Tensors = dict[str, torch.Tensor]
LEFT = "unused embedding rows"
AT_ONCE = 2048
"""Tokens that are computed at once, so that a batch of long rows needs no more memory than others. Larger products are no faster
(lab/LOG.md); the sums are those of the whole batch, and dropout is drawn by row."""
VALIDATION = -1
"""The step for which what is drawn anew is drawn when the validation rows are looked at: always the same."""
TIDY, HOLES = 8, 192_000_000
"""Every so many steps memory that was freed is given back when there is more than so much of it, in bytes."""


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
        events: told when the run has to defend itself.
        replay: how many general rows stand in a pass, where some examples are marked as such.
    """

    def __init__(
        self,
        specialist: Specialist,
        objective: Objective,
        examples: Sequence[Example],
        keys: TrainKeys,
        seed: int,
        precision: str,
        cache: Path | None = None,
        events: Events | None = None,
        replay: ReplayKeys | None = None,
    ) -> None:
        assert specialist.method is not None
        self.events = events or Events()
        self._specialist = specialist
        self.model = specialist.model
        self.objective = objective
        self.examples = examples
        self.keys = keys
        self.seed = seed
        self.precision = precision
        self.batch_size = keys.batch_size
        self.micro_batch_size = keys.micro_batch_size or keys.batch_size
        if self.micro_batch_size < self.batch_size and not objective.divisible:
            raise RecipeError(
                f"objective '{objective.name}' learns from all rows of a batch together, so a batch of {self.batch_size} cannot be computed in parts of {self.micro_batch_size}",
                place="train.micro_batch_size",
                fix="leave it out, or lower train.batch_size to what fits into memory",
            )
        self.average = keys.average
        self.turns = Turns(examples, replay or ReplayKeys(), seed)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = math.ceil((keys.epochs or specialist.method.epochs) * self.steps_per_epoch)
        self.watchman = Watchman(objective.loss_falls)
        self._drawn: Sequence[Example] | None = None
        """What the objective drew for the rows of the step that is being made."""
        self.compact = compacted(self.model.body, examples)
        """The embedding of the tokens in use, where the whole table trains."""
        self.average_left = 1.0
        """As `compact.left`, for the averaged weights."""
        self.chosen = {"batches": self.model.fit.why if not self.model.body_is_frozen() else "features of the frozen body"}
        lengths = recurring.words(torch.bfloat16 if self.precision == "bf16" else torch.float32)
        if lengths and self.model.fit.flat and not self.model.body_is_frozen():
            self.chosen["lengths"] = lengths
        if not self.model.body_is_frozen():
            self.chosen["attention"] = attention_words(network_of(self.model.body), self.model.fit, torch.bfloat16 if self.precision == "bf16" else torch.float32)
        self.chosen["optimizer"] = "AdamW, one fused operation for all weights of a group"
        if self.compact is not None:
            self.chosen["embedding"] = f"{len(self.compact.used):,} of {len(self.compact.place):,} rows stand in the training rows and are computed; the others only decay"
        keyed(self.model)
        fused = fuse_updates(self.model.body)
        if fused:
            self.chosen["updates"] = f"{fused} linear layers and their low-rank updates are one operation each"
        self.noisy = add_noise(network_of(self.model.body), keys.neftune) if not self.model.body_is_frozen() and keys.neftune is not None else None
        """Where NEFTune is on, its hook on the embedding; what frozen layers answer is then not the same twice, and is not kept."""
        self.model.noisy = self.noisy is not None
        depth = frozen_layers(self.model.body) if self.noisy is None and self.model.fit.flat and not self.model.body_is_frozen() and all("ids" in one for one in examples) else 0
        self.cached_bytes = 0
        """What lies on the disk of the frozen layers' answers."""
        if cache is not None and depth:  # elsewhere the limit stays unread, and the loop refuses it
            limit = keys.cache_gb
            kept = Cache(cache, None if limit is None else limit * 1e9, self.events)
            try:
                prefix = Prefix(self.model, examples, depth, kept, {"base": specialist.base.identity, "as": self.model.frozen_as} if self.model.frozen_as else specialist.base.identity, precision)
                self.cached_bytes = prefix.size
                how = f"{'were there from an earlier run' if prefix.reused else 'were computed once'} ({prefix.size / 1e6:,.0f} MB)"
            except NoRoom as error:
                how = f"are computed in every step: {error}"
            self.chosen["frozen layers"] = f"the answers of the first {depth} layers {how}"
        lower = below(self.model.body, depth) if depth else set()
        sites = []
        for module, attribute in dropouts(self.model.body):
            if id(module) in lower:
                setattr(module, attribute, 0.0)
            else:
                sites.append((module, attribute))
        if sites and keys.dropout is not None:  # without any, the key stays unread, and the loop refuses it
            for module, attribute in sites:
                setattr(module, attribute, keys.dropout)
        self.dropping = Dropping(self.model, sites)
        if self.dropping.words:
            self.chosen["micro-batches"] = self.dropping.words
        self.compiling = Compiling(self.model.body) if not self.model.body_is_frozen() and keys.compile != "off" else None
        self.model.eval()  # all of it: `step` only looks at the top
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.embedding_rate = keys.learning_rate or specialist.method.learning_rate
        self.optimizer = torch.optim.AdamW(self._groups(self.embedding_rate), fused=True, eps=1e-6)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.averaged = {name: p.detach().clone() for name, p in self.trained.items()} if self.average else {}

    def begin(self) -> None:
        """The average starts where the weights start. Whether layers are compiled is decided here, where no step was made yet."""
        if self.compiling is not None:
            self._choose_compiling(self.compiling)
        self.averaged = {name: p.detach().clone() for name, p in self.trained.items()} if self.average else {}

    def _choose_compiling(self, compiling: Compiling) -> None:
        def run(index: int) -> float:
            self._drawn = None
            total, items = self._gradients(index, self.batch_at(index))
            self.optimizer.zero_grad(set_to_none=True)
            return total / max(items, 1.0)

        self.model.train()
        order = sorted(range(self.steps_per_epoch), key=lambda i: sum(one["size"] for one in self.batch_at(i)))
        batches = sorted({order[round((len(order) - 1) * place / 10)] for place in range(11)})
        try:
            self.chosen["compile"] = compiling.choose(self.keys.compile, run, batches, self.total_steps, self.precision)
        except Unusable as error:
            raise MachineError(f"the layers cannot be compiled: {error}", place="train.compile", fix="install a C++ compiler, or set train.compile: off") from error

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        """Head and body have rates of their own; biases, norms and factors (weights in a line) do not decay."""
        heads = any(name.startswith("head.") for name in self.trained)  # without one, the key stays unread
        head_rate = (self.keys.head_learning_rate or max(1e-3, rate)) if heads else rate
        groups: dict[tuple[float, float], list[torch.Tensor]] = {}
        for name, parameter in self.trained.items():
            decay = self.keys.weight_decay if sum(size > 1 for size in parameter.shape) > 1 else 0.0
            groups.setdefault((head_rate if name.startswith("head.") else rate, decay), []).append(parameter)
        return [{"params": parameters, "lr": peak, "weight_decay": decay} for (peak, decay), parameters in groups.items()]

    def _batches(self, epoch: int) -> list[list[int]]:
        """The batches of a pass; each has as many as the first."""
        if self._epoch[0] != epoch:
            turn = self.turns.of(epoch)
            rows = [self.examples[i] for i in turn]
            sizes = [one["size"] for one in rows]
            batches = self.objective.order(rows, self.batch_size, self.seed, epoch) or length_grouped(sizes, self.batch_size, self.seed, epoch, group_of(sizes, self.model.fit.flat))
            self._epoch = (epoch, [[turn[i] for i in batch] for batch in (evened(batches, self.steps_per_epoch) if epoch else batches)])
        return self._epoch[1]

    def batch_at(self, index: int) -> list[Example]:
        """The rows of a step."""
        epoch, place = divmod(index, self.steps_per_epoch)
        return [self.examples[i] for i in self._batches(epoch)[place]]

    def step(self, index: int) -> dict[str, Any]:
        """One optimizer step: micro-batches are summed, then divided by the supervised items of the whole step.

        A step whose loss or gradient is no number, or jumps, makes no update (`skipped` says why, `rows` which rows it had); rows that are
        to blame alone are left out from then on. Where memory runs out, micro-batches get smaller and the step is computed again.

        Raises:
            Unsteady: too many of the last steps had to be skipped.
        """
        if not self.model.training:  # setting it walks through every module
            self.model.train()
        factor = rate_factor(index, self.total_steps, self.keys.warmup_ratio, self.keys.scheduler) * (LOWER if self.lowered else 1.0)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self._drawn = None
        rows = self._allowed(index)
        if not rows:
            return {
                "loss": 0.0,
                "items": 0.0,
                "learning_rate": self.peaks[0] * factor,
                "skipped": "all its rows were left out before",
                "rows": [e["row_id"] for e in self.batch_at(index)],
            }
        report = self._update(index, rows, factor)
        for update in range(1, self.objective.updates):
            if "skipped" not in report:
                report = self._update(index, self._allowed(index), factor, update)
        self._drawn = None
        if "skipped" in report:
            return report
        if said := self.watchman.drifting(report["learning_rate"]):
            report["warning"] = said
        if words := self.dropping.look():
            self.chosen["micro-batches"] = words
        if self.model.narrowed:
            self.chosen["last layer"] = "is computed for the tokens that the loss asks for alone, where they are few enough"
        if index % TIDY == 0:
            give_back(HOLES)
        if self.average:
            decay = min(self.average, (1 + index) / (10 + index))
            torch._foreach_lerp_(list(self.averaged.values()), [p.detach() for p in self.trained.values()], 1 - decay)
            if self.compact is not None:
                self.average_left += (self.compact.left - self.average_left) * (1 - decay)
        return report

    def _update(self, index: int, rows: Sequence[Example], factor: float, update: int = 0) -> dict[str, Any]:
        """One update of the weights by a step's rows, the first or a later one on what was drawn for them; what `step` reports."""
        parameters = list(self.trained.values())
        total, items = self._gradients(index, rows, update)
        if not math.isfinite(total) and not update:
            banned = self._ban(index, rows)
            if banned and len(banned) < len(rows):
                rows = self._allowed(index)
                self.optimizer.zero_grad(set_to_none=True)
                self._drawn = None
                total, items = self._gradients(index, rows)
        if items == 0:
            raise DataError(f"step {index + 1} has nothing to learn from", place="rows " + ", ".join(str(e["row_id"]) for e in rows[:8]), fix="give rows with targets, or raise train.max_length")
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])) / items
        report: dict[str, Any] = {"loss": total / items, "items": items, "learning_rate": self.peaks[0] * factor, "gradient_norm": norm}
        why = self.watchman.judge(index, total / items, norm)
        if why is not None:
            self.optimizer.zero_grad(set_to_none=True)
            if self.watchman.must_go_back():
                raise Unsteady(index, why)
            return report | {"skipped": why, "rows": [e["row_id"] for e in rows]}
        # the optimizer divides as it reads: by the items, and by how much too long the gradient is
        self.optimizer.grad_scale = torch.tensor(items * max(1.0, (norm + 1e-6) / self.keys.max_gradient_norm))  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.compact is not None:
            self.compact.left *= 1 - self.embedding_rate * factor * self.keys.weight_decay
        return report

    @property
    def lowered(self) -> bool:
        """True after `lower`."""
        return self.watchman.lowered

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of rows that are left out because their loss is no number."""
        return frozenset(self.watchman.banned)

    def lower(self) -> None:
        """From here on half the learning rate."""
        self.watchman.went_back()

    def _allowed(self, index: int) -> list[Example]:
        return [one for one in self.batch_at(index) if one["row_id"] not in self.watchman.banned]

    def _gradients(self, index: int, rows: Sequence[Example], update: int = 0) -> tuple[float, float]:
        """Sum of losses and supervised items of a step; its gradients are left on the parameters. Smaller micro-batches where memory runs out."""
        while True:
            try:
                if self._drawn is None:
                    self._drawn = self.objective.renew(self._specialist, rows, self.seed, index)
                return self._sums(index, self._drawn, update)
            except (MemoryError, RuntimeError, OSError) as error:
                self.optimizer.zero_grad(set_to_none=True)
                size = min(self.micro_batch_size, len(rows))
                if not ran_out(error):
                    raise
                if size < 2 or not self.objective.divisible:
                    raise self._too_large(error, size) from error
                self.micro_batch_size = (size + 1) // 2
                gc.collect()
                self.events.warn(f"memory ran out at step {index + 1}: {self.micro_batch_size} rows are computed at once from here on, before it was {size}; the batch of {len(rows)} stays")

    def _too_large(self, error: BaseException, size: int) -> MachineError:
        return MachineError(
            f"memory ran out with {size} row{'s' if size != 1 else ''} at once ({error})",
            place="train",
            fix="lower train.max_length"
            + (", choose a method that trains fewer weights," if size < 2 else " or train.batch_size (this objective needs the whole batch at once)")
            + " or close other programs; the run goes on from its last checkpoint",
        )

    def _sums(self, index: int, rows: Sequence[Example], update: int = 0) -> tuple[float, float]:
        again = (update,) if update else ()

        def drawn(micro: int) -> AbstractContextManager[Noise | None]:
            torch.default_generator.manual_seed(random_key(self.seed, "dropout", index, micro, *again))  # of what cannot be drawn by row
            return noise(random_key(self.seed, "dropout", index, *again))

        if not self.objective.separable and self.micro_batch_size < len(rows):
            return gradients_in_parts(self.objective, self._specialist, rows, self.micro_batch_size, drawn, self._autocast)
        total, items = 0.0, 0.0
        for micro, batch in enumerate(self._parts(rows)):
            with drawn(micro), self._autocast():
                loss, count = self.objective.loss(self.model, batch)
            del batch
            loss.backward()  # type: ignore[no-untyped-call]
            total, items = total + loss.item(), items + count
        return total, items

    def _parts(self, rows: Sequence[Example]) -> Iterator[Batch]:
        """What is computed at once: a micro-batch; of one that takes more than `AT_ONCE` tokens half its rows, where rows can be computed apart."""
        waiting = [rows[begin : begin + self.micro_batch_size] for begin in range(0, len(rows), self.micro_batch_size)]
        while waiting:
            part = waiting.pop(0)
            batch = self.objective.collate(self._specialist, part)
            if len(part) > 1 and self.objective.separable and (self.model.fit.flat or self.dropping.by_row) and isinstance(batch.get("tokens"), Tokens) and self._taken(batch["tokens"]) > AT_ONCE:
                ordered = sorted(part, key=lambda one: one["size"])
                sizes = list(accumulate(one["size"] for one in ordered))
                half = max(1, sum(2 * size <= sizes[-1] for size in sizes))
                waiting[:0] = [ordered[:half], ordered[half:]]
            else:
                yield batch

    def _taken(self, tokens: Tokens) -> int:
        """How many tokens the network reads, those among them that only fill up."""
        return len(tokens.row) if self.model.fit.flat else len(tokens.lengths) * int(tokens.lengths.max())

    def _ban(self, index: int, rows: Sequence[Example]) -> list[str]:
        """Find the rows whose loss is no number on their own, and leave them out from now on; none where the rows are not to blame alone."""
        found = []
        if self.objective.separable:
            for one in rows:
                again = self.objective.renew(self._specialist, [one], self.seed, index)
                with torch.no_grad(), noise(random_key(self.seed, "dropout", index)), self._autocast():
                    loss, _ = self.objective.loss(self.model, self.objective.collate(self._specialist, again))
                if not math.isfinite(loss.item()):
                    found.append(str(one["row_id"]))
        if len(found) < len(rows):
            for name in found:
                self.watchman.banned[name] = f"the loss is no number, first seen at step {index + 1}"
            if found:
                self.events.warn(f"step {index + 1}: the loss of {len(found)} row{'s' if len(found) != 1 else ''} is no number; left out from here on: {', '.join(found[:8])}", rows=found)
        return found

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
        size = self.micro_batch_size if self.objective.separable else self.batch_size
        total, items = 0.0, 0.0
        for begin in range(0, len(examples), size):
            part = examples[begin : begin + size]
            try:
                found = in_parts(self._losses, part) if self.objective.separable else self._losses(part)
            except (MemoryError, RuntimeError, OSError) as error:
                if ran_out(error):
                    raise self._too_large(error, 1 if self.objective.divisible else len(part)) from error
                raise
            total, items = total + sum(loss for loss, _ in found), items + sum(count for _, count in found)
        return total / items if items else math.nan

    def _losses(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        with torch.no_grad():
            renewed = self.objective.renew(self._specialist, examples, self.seed, VALIDATION)
            if self.objective.divisible and not self.objective.separable:
                return [loss_in_parts(self.objective, self._specialist, renewed)]
            loss, count = self.objective.loss(self.model, self.objective.collate(self._specialist, renewed))
        return [(loss.item(), count)]

    def weights(self) -> Tensors:
        """Copies of the trained weights, as they stand."""
        return {name: tensor.clone() for name, tensor in self._moving().items()}

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the trained weights for good: the embedding is whole again, and training cannot go on."""
        self._set(tensors)
        if self.noisy is not None:
            self.noisy.remove()
            self.noisy, self.model.noisy = None, False
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
        return tensors, {
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "micro_batch_size": self.micro_batch_size,
            "watchman": self.watchman.facts(),
            "compiled": self.compiling is not None and self.compiling.on,
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Back to the moment of `state`; refuses the state of another plan."""
        for name in ("total_steps", "steps_per_epoch"):
            if facts[name] != getattr(self, name):
                raise DataError(f"the checkpoint was written with {name} {facts[name]}, this run has {getattr(self, name)}", place="resume", fix="run with --fresh")
        self.micro_batch_size = facts["micro_batch_size"]
        if self.compiling is not None:
            self.compiling.switch(facts["compiled"])
        self.optimizer.state.clear()  # a start has none
        self.watchman.load(facts["watchman"])
        self._set({key.removeprefix("weight/"): value for key, value in tensors.items() if key.startswith("weight/")})
        for name in self.averaged:
            self.averaged[name].copy_(tensors[f"average/{name}"])
        if self.averaged and self.compact is not None:
            self.average_left = float(tensors[f"average/{LEFT}"])
        for name, parameter in self.trained.items():
            parts = {key.split("/", 2)[1]: value for key, value in tensors.items() if key.startswith("optimizer/") and key.split("/", 2)[2] == name}
            if parts:
                self.optimizer.state[parameter] = {part: value.clone() for part, value in parts.items()}
