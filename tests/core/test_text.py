"""The part of a text that a tokenizer gets to see: enough for the same tokens, never a cell of megabytes."""

from __future__ import annotations

import unicodedata

import pytest

from attune.core import catalog
from attune.core.conversation import prompt_ids, stop_ids, taught
from attune.core.models import resolve_base
from attune.core.recipe import DEFAULT_BASE
from attune.core.specialist import Specialist
from attune.core.text import TOKEN_CHARACTERS, WIDER, portion, readable
from attune.testing.models import CHAT_TEMPLATE, tiny_llama

REAL = "My order still has not arrived, although the tracking says it was handed to a neighbour on Monday. Der Händler wohnt über der Straße. 注文した商品がまだ届きません。 "
LENGTH = 32
HUGE = 1_000_000


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, inner):
        self.inner = inner
        self.characters = 0

    def __call__(self, text, *arguments, **options):
        self.characters += sum(map(len, text)) if isinstance(text, list) else len(text)
        return self.inner(text, *arguments, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def reader(max_length=LENGTH):
    base = resolve_base(DEFAULT_BASE)
    task = catalog.build("tasks", "text_classification")
    signature = {"labels": ["a", "b"], "multi_label": False}
    return Specialist(task, signature, None, Counting(base.tokenizer()), base, max_length)


@pytest.fixture(scope="module", params=[None, CHAT_TEMPLATE], ids=["default template", "template of the base"])
def speaker(request, tmp_path_factory):
    base = resolve_base(str(tiny_llama(tmp_path_factory.mktemp("base"), [REAL] * 3, chat_template=request.param)))
    task = catalog.build("tasks", "text_generation")
    return Specialist(task, {}, task.build(base, {}), Counting(base.tokenizer()), base, LENGTH)


def whole(specialist, text):
    """What the tokenizer says without any cut by characters."""
    return specialist.tokenizer.inner(text, truncation=True, max_length=specialist.max_length, add_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("end", [False, True])
def test_a_portion_is_cut_at_a_space_and_short_texts_stay(end):
    assert portion("a b", 1, end=end) == "a b"
    part = portion(REAL * 50, 10, end=end)
    assert 0 < len(part) <= 10 * TOKEN_CHARACTERS
    assert (REAL * 50).endswith(part) if end else (REAL * 50).startswith(part)
    assert len(portion(REAL * 50, 10, end=end, wider=True)) > len(part)
    words = set((REAL * 50).split())
    assert set(part.split()) <= words
    accents = unicodedata.normalize("NFD", "é") * 1000
    part = portion(accents, 10, end=end)
    assert unicodedata.normalize("NFC", part) == "é" * (len(part) // 2)


def test_short_and_long_texts_keep_their_tokens_and_the_long_ones_say_that_they_are_cut():
    specialist = reader()
    texts = ["refund", REAL, REAL * 3, REAL * 100, "- " * 3000, "x" * 150 + " " + REAL * 20, "naïve " * 400, "注文" * 2000, ""]
    found = specialist.encode(texts)
    assert [ids for ids, _ in found] == [whole(specialist, text) for text in texts] == specialist.token_ids(texts)
    assert [cut for _, cut in found] == [len(specialist.tokenizer.inner(text)["input_ids"]) > LENGTH for text in texts]


def test_words_that_fill_no_tokens_are_looked_at_once_more():
    """A word of more than a hundred letters is one unknown token: 20 characters a token would hold too few of them."""
    specialist = reader()
    text = ("q" * 120 + " ") * 200
    [(ids, cut)] = specialist.encode([text])
    assert cut
    assert ids == whole(specialist, text)


@pytest.mark.parametrize("unit", ["a", "word ", "a'", " ", "注文", REAL])
def test_a_cell_of_megabytes_is_not_given_to_the_tokenizer(unit):
    specialist = reader()
    text = (unit * HUGE)[:HUGE]
    [(ids, cut)] = specialist.encode([text])
    assert cut
    assert len(ids) <= LENGTH
    assert specialist.tokenizer.characters <= (2 + 2 * WIDER) * TOKEN_CHARACTERS * LENGTH


def test_the_counter_catches_a_tokenizer_that_gets_the_whole_text():
    specialist = reader()
    whole_text = (REAL * HUGE)[:HUGE]
    specialist.tokenizer(whole_text[:200_000])
    assert specialist.tokenizer.characters > (2 + 2 * WIDER) * TOKEN_CHARACTERS * LENGTH


@pytest.mark.parametrize(
    ("objective", "task", "signature", "row"),
    [
        ("supervised", "text_classification", {"labels": ["a", "b"], "multi_label": False}, {"text": REAL * 5000, "label": "a"}),
        ("contrastive", "embedding", {}, {"anchor": REAL * 5000, "positive": REAL * 5000}),
    ],
)
def test_examples_of_a_huge_row_are_cut_and_say_so(objective, task, signature, row):
    specialist = reader()
    specialist.task, specialist.signature = catalog.build("tasks", task), signature
    rows = [{"row_id": "1", **row}, {"row_id": "2", **{name: value if name == "label" else "short" for name, value in row.items()}}]
    huge, short = catalog.build("objectives", objective).examples(specialist, rows, LENGTH)
    assert (huge["cut"], short["cut"]) == (True, False)
    assert huge["size"] == LENGTH
    assert specialist.tokenizer.characters <= 6 * (1 + WIDER) * TOKEN_CHARACTERS * LENGTH


def asked(text):
    return [{"role": "user", "content": text}]


def test_a_huge_conversation_is_read_from_its_end(speaker):
    speaker.tokenizer.characters = 0
    talk = asked(REAL * 5000 + "Where is it?")
    ids, cut = prompt_ids(speaker, talk)
    assert cut
    assert len(ids) == LENGTH
    assert speaker.tokenizer.characters <= (1 + WIDER) * TOKEN_CHARACTERS * LENGTH
    shorter = prompt_ids(speaker, asked(REAL * 5 + "Where is it?"))[0]
    assert ids[1:] == shorter[1:]
    assert ids[0] == shorter[0] or speaker.tokenizer.bos_token_id != shorter[0]
    answer = [*talk, {"role": "assistant", "content": "On its way."}]
    one = taught(speaker, answer, stop_ids(speaker))
    near = taught(speaker, [*asked(REAL * 2 + "Where is it?"), answer[-1]], stop_ids(speaker))
    assert (one.cut, near.cut) == (True, False)
    size = one.answer_size
    assert size == near.answer_size
    assert one.ids[-size:] == near.ids[-size:]
    assert one.learned[-size:] == near.learned[-size:] == [True] * size


def test_a_huge_prompt_teaches_its_short_answer_and_a_huge_answer_is_refused(speaker):
    from attune.core.errors import DataError

    sft = catalog.build("objectives", "sft")
    [example] = sft.examples(speaker, [{"row_id": "1", "prompt": REAL * 5000, "completion": "On its way."}], LENGTH)
    assert example["cut"]
    assert example["size"] == LENGTH
    assert any(target >= 0 for target in example["targets"])
    with pytest.raises(DataError, match="far more than"):
        sft.examples(speaker, [{"row_id": "1", "prompt": "Where?", "completion": REAL * 5000}], LENGTH)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("as it is", "as it is"),
        (None, ""),
        (["late", "lost"], "late, lost"),
        ({"amount": 3, "purpose": None}, "amount: 3; purpose: (missing)"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}], "system: Be brief. / user: Where?"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "lookup", "arguments": {}}]}, {"role": "tool", "content": "42"}], "assistant: (calls lookup) / tool: 42"),
        ([{"type": "function", "function": {"name": "lookup", "parameters": {}}}, {"name": "close"}], "lookup, close"),
    ],
)
def test_values_as_people_read_them(value, said):
    assert readable(value) == said
