"""A batch whose rows are learned from together, computed in parts: first what the rows say, then the loss of all, then each part's share of the gradient.

The gradient of the loss by what a row said is all that the weights behind it need, so that the parts' gradients add up to those of the whole batch (Gao et al. 2021,
'Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup', section 3.2). Each part is computed twice, with the same dropout.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from attune.core.contracts import Example, Objective
from attune.core.flat import Noise, noise
from attune.core.memory import ran_out
from attune.core.specialist import Specialist


def gradients_in_parts(
    objective: Objective, specialist: Specialist, rows: Sequence[Example], size: int, drawn: Callable[[int], AbstractContextManager[Noise | None]], autocast: Callable[[], Any]
) -> tuple[float, float]:
    """Sum of losses and supervised items of a batch; its gradients are added to those of the parameters.

    Args:
        objective: that `together` makes the loss of.
        specialist: in training.
        rows: of the whole batch.
        size: how many are computed at once.
        drawn: the noise of a part by its number, each time the same.
        autocast: the number format of products. Each pass has a block of its own: what is narrowed without gradients has none later.
    """
    said: list[torch.Tensor] = []
    last: Noise | None = None
    for number, part in enumerate(objective.divided(specialist, rows, size)):
        with drawn(number) as now, torch.no_grad(), autocast():
            last = now
            said += [one.detach().requires_grad_() for one in objective.each(specialist.model, part)]
    with noise(last), autocast():  # what is drawn behind the body is drawn where the whole batch would draw it
        loss, items = objective.together(specialist.model, said, objective.collate(specialist, rows))
    loss.backward()  # type: ignore[no-untyped-call]
    waiting = iter(said)
    for number, part in enumerate(objective.divided(specialist, rows, size)):
        with drawn(number), autocast():
            again = objective.each(specialist.model, part)
        pairs = [(one, before.grad) for one, before in zip(again, waiting, strict=False) if one.requires_grad and before.grad is not None]
        if pairs:
            torch.autograd.backward([one for one, _ in pairs], [grad for _, grad in pairs])
    return loss.item(), items


def loss_in_parts(objective: Objective, specialist: Specialist, rows: Sequence[Example]) -> tuple[float, float]:
    """As `gradients_in_parts`, without gradients or noise; in smaller parts where memory runs out.

    Raises:
        whatever `each` raises; the memory's own error when a single row does not fit.
    """
    size = len(rows)
    with torch.no_grad():
        while True:
            try:
                said = [one for part in objective.divided(specialist, rows, size) for one in objective.each(specialist.model, part)]
                break
            except (MemoryError, RuntimeError, OSError) as error:
                if not ran_out(error) or size < 2:
                    raise
                size = (size + 1) // 2
            gc.collect()
        loss, items = objective.together(specialist.model, said, objective.collate(specialist, rows))
    return loss.item(), items
