"""Personal data: what must be found, and the look-alikes that must stay."""

from __future__ import annotations

from itertools import pairwise

import pytest

from attune.core import pii
from attune.core.pii import Span, find, mask

FOUND = {
    "EMAIL": [
        "write to anna.kowalska+shop@example.co.uk please",
        "john [at] example [dot] com",
        "my address (bob_99@mail.example.org) is old",
        "MÜLLER@EXAMPLE.DE",
        "reply to a@b.io.",
    ],
    "CARD": ["4111 1111 1111 1111", "card 5555-5555-5555-4444 expired", "378282246310005", "paid with 6011111111111117,", "3530111333300000"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "gb82west12345698765432", "IBAN: FR14 2004 1010 0505 0001 3M02 606 please", "NL91ABNA0417164300"],
    "SSN": ["my number is 219-09-9999", "SSN 219 09 9999", "social security: 219099999"],
    "IP": ["from 192.168.13.7 last night", "2001:db8::8a2e:370:7334 logged in", "fe80::1ff:fe23:4567:890a"],
    "URL": ["https://bob:s3cret@shop.example/admin", "use ftp://a:b@c.example/x."],
    "PHONE": [
        "+49 171 2345678",
        "+1 (202) 555-0143 x12",
        "(555) 234-5678",
        "555-234-5678 after six",
        "555.234.5678",
        "020 7946 0958",
        "07911 123456",
        "0171/2345678",
        "0049 171 2345678",
        "call me on 5552345678",
        "my number is 0301234567",
        "phone: 555-0134",
        "she's on 555-0119.",
    ],
    "NAME": [
        "My name is Anna Kowalska and I wait",
        "I'm Peter van Dyke.",
        "Kind regards,\nMaria Lopez",
        "Thanks, Tom",
        "this is Dr. Smith",
        "The account is in the name of Zdeněk Horák.",
        "I spoke with Priyanka Desai last time",
        "Freya Tunnicliffe here again.",
        "my husband Leopold Anstruther placed it",
        "Regards R. Castellanos",
        "Mrs O'Brien-Nowak",
        "Mein Name ist Jürgen Groß",
    ],
}
LOOK_ALIKES = [
    "4111 1111 1111 1112 fails Luhn",
    "0000 0000 0000 0000",
    "order 1029384756",
    "order number 555-234-5678",
    "tracking 9400 1000 0000 0000 0000 00",
    "invoice #20240115",
    "ticket T-100025 and case 555-0199",
    "DE89 3704 0044 0532 0130 01 has a wrong check digit",
    "GB is not an IBAN12",
    "2024-01-15 10:30:45",
    "05.06.2024 and 05-06-2024",
    "version 1.2.3.4",
    "firmware v10.0.0.1",
    "300.1.2.3",
    "12:30:45 today, ratio 1:2:3",
    "it costs 1,234,567.89 dollars, or 10.000.000",
    "450,000-2000=448000",
    "12345678901234567890123",
    "ISBN 978-3-16-148410-0, EAN 4006381333931",
    "from 2019 2020 2021 to 0900-0130",
    "000-12-3456 and 666-12-3456 are no social security numbers",
    "900-12-3456",
    "meet @ noon, @handle, a@b",
    "https://shop.example/path:80@x",
    "I'm Not Happy",
    "I am Very Disappointed",
    "This Is My Order",
    "Thanks, guys",
    "No thanks. Cancel.",
    "Thank you, Support Team",
    "thanks. Where is my order",
    "my name is wrong on the account",
    "It's Elm Court, not Elm Close.",
    "I miss Python",
    "best regards",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_found(kind, text):
    kinds = [span.kind for span in find(text)]
    assert kinds == [kind], (text, kinds)
    assert f"[{kind}]" in mask(text)


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_stay(text):
    assert find(text) == []
    assert mask(text) is text


def test_spans_are_exact():
    text = "I am Eva Braun-Keller, mail e.b@example.org or ring +44 20 7946 0958."
    assert [(s.kind, s.text) for s in find(text)] == [("NAME", "Eva Braun-Keller"), ("EMAIL", "e.b@example.org"), ("PHONE", "+44 20 7946 0958")]
    assert all(text[s.start : s.end] == s.text for s in find(text))
    assert mask(text) == "I am [NAME], mail [EMAIL] or ring [PHONE]."
    assert isinstance(find(text)[0], Span)


def test_a_card_is_not_also_a_phone_and_masking_twice_changes_nothing():
    text = "my name is Sam, card 4111111111111111, IBAN DE89370400440532013000, mail s@example.org"
    assert [s.kind for s in find(text)] == ["NAME", "CARD", "IBAN", "EMAIL"]
    assert mask(mask(text)) == mask(text)


def test_kinds_can_be_chosen():
    text = "I'm Anna Berg, a@example.org"
    assert mask(text, ("EMAIL",)) == "I'm Anna Berg, [EMAIL]"
    assert find(text, ()) == []


@pytest.mark.parametrize(("digits", "good"), [("4111111111111111", True), ("4111111111111112", False), ("79927398713", True), ("79927398710", False)])
def test_luhn(digits, good):
    assert pii.passes_luhn(digits) is good


@pytest.mark.parametrize(("iban", "good"), [("GB82WEST12345698765432", True), ("GB82WEST12345698765433", False)])
def test_mod97(iban, good):
    assert pii.passes_mod97(iban) is good


def test_hostile_texts_end():
    """Long runs of what patterns are made of take time linear in their length, not exponential."""
    for piece in ("1", "1 ", "a@", "a.", "A ", "Aa ", "(", "0/", "+1 ", ":", "-", "http://a:", "thanks, A "):
        find(piece * 3000)


def test_many_findings_stand_in_order_without_overlap():
    text = "Mr Bob Miller wrote from bob@example.com and 192.168.7.9. " * 500
    spans = find(text)
    assert len(spans) == 1500
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert [span.kind for span in spans[:3]] == ["NAME", "EMAIL", "IP"]


@pytest.mark.parametrize(("unit", "before"), [("a'", ""), (" ", "regards"), ("\n", "many thanks"), (" ", "regards Bob"), (" ", "my name is")])
def test_long_runs_of_one_thing_do_not_explode(unit, before):
    """Once quadratic or worse: this would not end in an hour."""
    assert find("5@ " + before + unit * 100_000 + "x") == []
