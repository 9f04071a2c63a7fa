"""Beginnings that rows share are laid once, and answer and learn as if each row had its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.core import flat
from attune.core import tokens as core_tokens
from attune.core.flat import fit_of, noise, run_flat, run_padded
from attune.core.tokens import LEAST_SHARED, Tokens, shared_beginnings

from .test_flat import FAMILIES, body_of

SYSTEM = list(range(100, 100 + LEAST_SHARED + 4))
ASKED = [SYSTEM + [50 + i] * LEAST_SHARED for i in range(2)]
ROWS = [ASKED[0] + [7, 8, 9], ASKED[0] + [20, 21, 22, 23, 24, 25], ASKED[1] + [30], ASKED[1] + [31, 32], [40, 41, 42], [*SYSTEM, 60, 61]]
LONG = [SYSTEM + [first + i % 60 for i in range(size)] for first, size in ((10, 70), (80, 66), (20, 71))]  # behind the beginning, too, long enough for the fused kernel
DECODERS = [family for family in FAMILIES if family not in ("bert", "roberta", "distilbert", "modernbert", "electra")]


def shared(rows=ROWS):
    return Tokens.of(rows, [len(row) - 1 for row in rows])


def saved(families):
    return sum((len(members) - 1) * size for members, size in families)


def test_the_division_that_saves_most_is_taken():
    assert saved(shared_beginnings(ROWS, [len(row) - 1 for row in ROWS])) == max(4 * len(SYSTEM), 2 * len(ASKED[0]))
    assert shared_beginnings(ROWS, [LEAST_SHARED - 1] * len(ROWS)) == []
    assert shared_beginnings([[1, 2, 3]] * 4, [2] * 4) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(5, 6), min_size=1, max_size=30), min_size=1, max_size=7), st.data())
def test_every_token_is_there_once_with_its_own_before_it(rows, data):
    rows = [data.draw(st.sampled_from([[], [9] * 9, [9] * 12, [9] * 9 + [8] * 8])) + row for row in rows]
    limits = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    tokens = Tokens.of(rows, limits)
    assert tokens.ids.shape[1] == sum(map(len, rows)) - saved(shared_beginnings(rows, limits))
    for i, row in enumerate(rows):
        at = int(tokens.starts[i]) + sum(piece.end - piece.begin for piece in tokens.pieces if piece.row == i and piece.start == int(tokens.starts[i])) - 1
        back = []
        while at >= 0:
            back.append(int(tokens.ids[0, at]))
            assert int(tokens.positions[0, at]) == len(row) - len(back)
            at = int(tokens.before[at])
        assert back[::-1] == row
    ids, mask = tokens.padded(0)
    assert [ids[i, : int(mask[i].sum())].tolist() for i in range(len(rows))] == rows


@pytest.mark.parametrize("rows", [ROWS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("family", DECODERS)
def test_hidden_states_and_gradients_agree_with_padding(family, rows):
    body = body_of(family)
    fit = fit_of(body)
    assert fit.shares
    tokens, last = shared(rows), [len(row) - 1 for row in rows]
    assert tokens.ids.shape[1] < sum(map(len, rows))
    ends = [int(tokens.starts[i]) + len(row) - 1 - int(tokens.positions[0, tokens.starts[i]]) for i, row in enumerate(rows)]
    found = {}
    for way in ("shared", "padded"):
        body.zero_grad()
        if way == "shared":
            hidden = run_flat(body, tokens, fit.offset, use_cache=False)[ends]
        else:
            hidden = run_padded(body, Tokens.of(rows), int(body.config.pad_token_id or 0), use_cache=False)[0][range(len(rows)), last]
        (hidden**2 * torch.linspace(0.5, 1.5, hidden.shape[1])).sum().backward()
        found[way] = [hidden.detach(), *(p.grad.clone() for p in body.parameters() if p.grad is not None)]
    assert len(found["shared"]) == len(found["padded"]) > 10
    for ours, theirs in zip(found["shared"], found["padded"], strict=True):
        assert float((ours - theirs).abs().max()) <= 2e-4 * max(float(theirs.abs().max()), 1e-2)


def test_networks_that_look_both_ways_do_not_share():
    assert not fit_of(body_of("bert")).shares


def test_a_branch_that_sees_its_sister_is_noticed(monkeypatch):
    """The must-fail twin."""
    looked = flat._looked_at

    def faulty(group, line):
        return looked(group, line.roll(1, 0)) if group.sources is not None else looked(group, line)

    monkeypatch.setattr(flat, "_looked_at", faulty)
    assert not fit_of(body_of("llama")).shares


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_dropout_does_not_depend_on_who_shares_a_beginning(family):
    """In one batch, in micro-batches of three, two and one, and where nothing is laid once: a row's states and all gradients are the same."""
    body = body_of(family).train()
    body.config.attention_dropout = 0.1
    for module in body.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.1
    flat.key_dropout(body)

    def drawn(parts, least):
        body.zero_grad()
        found = []
        for part in parts:
            rows = [ROWS[i] for i in part]
            with noise(5), pytest.MonkeyPatch.context() as patch:
                patch.setattr(core_tokens, "LEAST_SHARED", least)
                tokens = Tokens.of(rows, [len(row) - 1 for row in rows])
                hidden = run_flat(body, tokens, 0, use_cache=False)[tokens.ends]
            (hidden**2 * torch.linspace(0.5, 1.5, hidden.shape[1])).sum().backward()
            found.append(hidden.detach())
        return [torch.cat(found), *(p.grad.clone() for p in body.parameters() if p.grad is not None)]

    whole = drawn([range(6)], LEAST_SHARED)
    body.eval()
    assert float((whole[0] - drawn([range(6)], LEAST_SHARED)[0]).abs().max()) > 1e-2
    body.train()
    for parts in ([range(6)], [(0, 2, 4), (1, 3, 5)], [(0, 3), (1, 4), (2, 5)], [(i,) for i in range(6)]):
        others = drawn(parts, 1000 if len(parts) == 1 else LEAST_SHARED)
        order = [i for part in parts for i in part]
        others[0] = others[0][torch.tensor(order).argsort()]
        for ours, theirs in zip(whole, others, strict=True):
            assert float((ours - theirs).abs().max()) <= 2e-4 * max(float(theirs.abs().max()), 1e-2)


def test_dropout_behind_a_shared_beginning_is_that_of_the_row():
    """The same for the same noise, another for another."""
    body = body_of("gpt2").train()
    flat.key_dropout(body)
    tokens = shared()
    with noise(5):
        first = run_flat(body, tokens, 0, use_cache=False)
    with noise(5):
        again = run_flat(body, tokens, 0, use_cache=False)
    with noise(6):
        other = run_flat(body, tokens, 0, use_cache=False)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
