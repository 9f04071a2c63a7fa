"""NEFTune: noise of the right size, from the row and the step alone, in training only."""

from __future__ import annotations

import pytest
import torch

from attune.core.flat import add_noise, noise
from attune.core.tokens import Tokens
from attune.core.tunable import TunableModel

from .test_flat import FAMILIES, ROWS, body_of

ALPHA = 5.0


def embedded(body, rows, *, seed: int | None, flat: bool = True, training: bool = True) -> dict[int, torch.Tensor]:
    """What the embedding answers for each row."""
    model = TunableModel(body)
    object.__setattr__(model.fit, "flat", model.fit.flat and flat)
    caught: list[torch.Tensor] = []
    catching = body.get_input_embeddings().register_forward_hook(lambda _m, _i, found: caught.append(found.detach()))
    model.train(training)
    tokens = Tokens.of(rows)
    try:
        if seed is None:
            model.hidden(tokens)
        else:
            with noise(seed):
                model.hidden(tokens)
    finally:
        catching.remove()
        body.eval()
    [found] = caught
    if flat:
        return {i: found[0, int(tokens.starts[i]) : int(tokens.starts[i] + tokens.lengths[i])] for i in range(len(rows))}
    return {i: found[i, : len(row)] for i, row in enumerate(rows)}


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("family", ["bert", "electra", "llama", "gpt2"])
def test_noise_has_the_size_of_the_formula_and_is_off_where_nothing_trains(family):
    body = body_of(family)
    plain = embedded(body, ROWS, seed=None)
    handle = add_noise(body, ALPHA)
    noisy = embedded(body, ROWS, seed=4)
    width = plain[0].shape[-1]
    for i, row in enumerate(ROWS):
        added = noisy[i] - plain[i]
        bound = ALPHA / (len(row) * width) ** 0.5
        assert 0.8 * bound < added.abs().max() <= bound * 1.0001
        assert abs(float(added.square().mean().sqrt()) / (bound / 3**0.5) - 1) < 0.25, "even in [-1, 1) has a deviation of 1 / sqrt(3)"
        assert abs(float(added.mean())) < 0.3 * bound
    for still in (embedded(body, ROWS, seed=None), embedded(body, ROWS, seed=4, training=False)):
        assert all(torch.equal(still[i], plain[i]) for i in plain)
    handle.remove()
    assert torch.equal(embedded(body, ROWS, seed=4)[0], plain[0])


@pytest.mark.usefixtures("any_length")
def test_noise_depends_on_row_and_step_and_not_on_the_batch():
    body = body_of("llama")
    add_noise(body, ALPHA)
    for flat in (True, False):
        together = embedded(body, ROWS, seed=4, flat=flat)
        for part in ([0, 1], [2], [3, 4, 5]):
            alone = embedded(body, [ROWS[i] for i in part], seed=4, flat=flat)
            assert all(torch.equal(alone[place], together[i]) for place, i in enumerate(part))
    other = embedded(body, ROWS, seed=5, flat=False)
    assert not any(torch.equal(other[i], together[i]) for i in together)


def test_shared_beginnings_are_computed_in_each_row_while_noise_differs_from_row_to_row():
    model = TunableModel(body_of("llama"))
    assert model.shares
    model.noisy = True
    assert not model.shares


def test_every_family_of_flat_rows_takes_it():
    for family in FAMILIES:
        body = body_of(family)
        plain = embedded(body, ROWS, seed=None)
        add_noise(body, ALPHA)
        assert not torch.equal(embedded(body, ROWS, seed=1)[0], plain[0]), family
