# SPDX-License-Identifier: Apache-2.0
"""The rows of the shipped tickets with the faults that are planted among them; ``build_data.py`` writes the files.

Standard library only, no network, fixed seed: the same rows each time.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20260105
COLUMNS = ["ticket_id", "received_at", "customer", "channel", "message", "category"]

FILES = {
    "email": {"file": "data/tickets_email.csv", "encoding": "utf-8-sig", "delimiter": ","},
    "phone": {"file": "data/tickets_phone.csv", "encoding": "cp1252", "delimiter": ";"},
    "web": {"file": "data/tickets_web.csv", "encoding": "utf-8", "delimiter": ","},
}

# Which intents a hurried human labeller mixes up.
CONFUSABLE = {
    "account_hacked": ["login_problem", "wrong_charge"],
    "cancel_order": ["cancel_subscription", "return_item"],
    "cancel_subscription": ["cancel_order", "request_refund"],
    "change_address": ["track_order", "change_payment_method"],
    "change_payment_method": ["payment_failed", "change_address"],
    "damaged_item": ["wrong_item", "return_item"],
    "delivery_late": ["track_order", "cancel_order"],
    "login_problem": ["reset_password", "account_hacked"],
    "payment_failed": ["change_payment_method", "wrong_charge"],
    "refund_status": ["request_refund", "return_item"],
    "request_refund": ["refund_status", "return_item"],
    "reset_password": ["login_problem", "account_hacked"],
    "return_item": ["request_refund", "wrong_item"],
    "track_order": ["delivery_late", "change_address"],
    "wrong_charge": ["payment_failed", "request_refund"],
    "wrong_item": ["damaged_item", "return_item"],
}

CARD_INTENTS = {
    "account_hacked", "change_payment_method", "payment_failed",
    "refund_status", "request_refund", "wrong_charge",
}

LABEL_TYPOS = [
    ("refund_status", "refund_staus", 3),
    ("delivery_late", "delivary_late", 3),
    ("return_item", "retrun_item", 3),
    ("login_problem", "login_problm", 3),
]
LABEL_VARIANTS = [
    ("request_refund", "Request Refund ", 3),
    ("cancel_order", "CANCEL_ORDER", 2),
    ("change_address", "change-address", 2),
    ("wrong_item", " wrong item", 2),
    ("track_order", "Track_Order", 1),
]

# What a correct curation does with each kind.
EXPECTED = {
    "file_format": "read each file with its own encoding, delimiter and byte-order mark",
    "exact_duplicate": "keep one row of the pair and drop this copy",
    "conflicting_duplicate": "keep one row of the pair; the two labels disagree, so send the pair to review (the true label is given)",
    "near_duplicate": "drop this copy, or at the least keep both rows on the same side of every split",
    "near_duplicate_same_customer": "drop this copy, or at the least keep both rows on the same side of every split",
    "customer_in_several_rows": "keep all rows of one customer on the same side of every split",
    "email": "mask the e-mail address and keep the row",
    "phone": "mask the phone number and keep the row",
    "card": "mask the card number and keep the row",
    "name": "mask the person's name and keep the row",
    "lookalike": "keep the row and the number: it is an order, tracking, serial or case number, not personal data",
    "wrong_label": "flag the row for review; the true label is given",
    "label_typo": "correct the label to the true label and keep the row",
    "label_variant": "normalise the label to the true label and keep the row",
    "blank_label": "quarantine the row or send it to labelling; never train on it as it is",
    "empty_message": "quarantine or drop the row: there is no text",
    "broken_too_few_fields": "quarantine this row only; every other row survives",
    "broken_too_many_fields": "quarantine this row only; every other row survives",
    "broken_unclosed_quote": "quarantine this row only; the row on the next line and all rows after it survive",
    "broken_nul_byte": "quarantine this row only; every other row survives",
    "broken_only_id": "quarantine this row only; every other row survives",
    "over_long": "flag the row as over-long; cut it to its first part or set it aside for review",
    "mojibake": "repair the text to the original (it is UTF-8 that was read as cp1252) and keep the row",
    "invisible_characters": "remove zero-width characters, turn no-break spaces into spaces, and keep the row",
    "non_language": "quarantine or drop the row: the message says nothing",
}

# Rows of these kinds are not to be trained on.
DROPPED_KINDS = [
    "exact_duplicate", "conflicting_duplicate", "near_duplicate",
    "near_duplicate_same_customer", "blank_label", "empty_message",
    "broken_too_few_fields", "broken_too_many_fields", "broken_unclosed_quote",
    "broken_nul_byte", "broken_only_id", "over_long", "non_language",
]


# ---------------------------------------------------------------- reading


def read_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def read_sections(path: Path) -> list[tuple[str, str]]:
    """Lines under ``[intent]`` headings, as (intent, text)."""
    out, current = [], None
    for line in read_lines(path):
        heading = re.fullmatch(r"\[(\w+)\]", line)
        if heading:
            current = heading.group(1)
        else:
            out.append((current, line))
    return out


def read_base() -> list[tuple[str, str]]:
    out = []
    for path in sorted((HERE / "tickets_source").glob("*.txt")):
        out += [(path.stem, line) for line in read_lines(path)]
    return out


# ---------------------------------------------------------------- helpers


def words(text: str) -> int:
    return len(text.split())


def fits_cp1252(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def curl(text: str) -> str:
    """Straight apostrophes to curly ones, as phones and word processors write them."""
    return re.sub(r"(?<=\w)'(?=\w)", "\u2019", text)


def luhn(number: str) -> bool:
    digits = [int(c) for c in number if c.isdigit()][::-1]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])
    return total % 10 == 0


def sentence_end(text: str) -> str:
    return text if text[-1] in ".!?…)" else text + "."


class Row:
    """One record on its way into a file."""

    def __init__(self, when, customer, channel, message, category, true=None):
        self.when, self.customer, self.channel = when, customer, channel
        self.message, self.category = message, category
        self.true = category if true is None else true
        self.ticket_id = ""
        self.line = 0
        self.used = False      # already part of some planted fault
        self.raw = None        # function(row, delimiter) -> text line, for broken rows
        self.after_quoted = False  # must be followed by a row with a quoted message

    def fields(self):
        return [self.ticket_id, self.when.isoformat(), self.customer, self.channel,
                self.message, self.category]


def encode_record(fields: list[str], delimiter: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="").writerow(fields)
    return buffer.getvalue()


# ---------------------------------------------------------------- building


class Builder:
    def __init__(self):
        self.rng = random.Random(SEED)
        self.rows: list[Row] = []
        self.planted: dict[str, list[tuple[Row, dict]]] = {kind: [] for kind in EXPECTED}
        self.touched: Counter = Counter()
        self.start = datetime(2026, 1, 5)
        self.days = 175
        self.next_customer = 10000

    # -- small pieces

    def moment(self, start=None, days=None) -> datetime:
        start = start or self.start
        day = self.rng.randrange(days or self.days)
        minute = int(self.rng.triangular(6 * 60, 23 * 60, 11 * 60))
        return start + timedelta(days=day, minutes=minute, seconds=self.rng.randrange(60))

    def later_than(self, when: datetime, hours: int) -> datetime:
        moved = when + timedelta(minutes=self.rng.randrange(3, hours * 60))
        return min(moved, self.start + timedelta(days=self.days - 1, hours=23))

    def new_customer(self) -> str:
        self.next_customer += self.rng.randrange(1, 12)
        return f"C-{self.next_customer}"

    def plant(self, kind: str, row: Row, **more) -> None:
        self.planted[kind].append((row, more))
        row.used = True

    def pick(self, test=lambda row: True, least=0) -> Row:
        """A still unused row; intents that have been touched least come first."""
        free = [r for r in self.rows
                if not r.used and words(r.message) >= least and test(r)]
        low = min(self.touched[r.true] for r in free)
        row = self.rng.choice([r for r in free if self.touched[r.true] == low])
        self.touched[row.true] += 1
        return row

    # -- the clean rows

    def base_rows(self) -> None:
        tickets = read_base()
        self.rng.shuffle(tickets)
        owners: list[str] = []
        while len(owners) < len(tickets):
            size = 1 if self.rng.random() < 0.70 else self.rng.choice([2, 2, 2, 3, 3, 4])
            owners += [self.new_customer()] * size
        owners = owners[: len(tickets)]
        for (intent, text), customer in zip(tickets, owners):
            channel = self.rng.choices(["email", "phone", "web"], weights=[40, 25, 35])[0]
            if channel == "phone" and not fits_cp1252(text):
                channel = "web"
            if channel == "phone" and self.rng.random() < 0.4:
                text = curl(text)
            self.rows.append(Row(self.moment(), customer, channel, text, intent))

    # -- personal data

    def plant_personal_data(self) -> None:
        for kind in ("card", "email", "phone", "name", "lookalike"):
            for line in read_lines(HERE / "plant_source" / f"{kind}.txt"):
                before = line.startswith("<")
                line = line.lstrip("<")
                value = re.search(r"\[\[(.+?)\]\]", line).group(1)
                clean = line.replace("[[", "").replace("]]", "")
                if kind == "card" and not luhn(value):
                    raise ValueError(f"not a valid test card number: {value}")
                if kind == "lookalike" and luhn(value) and sum(c.isdigit() for c in value) > 12:
                    raise ValueError(f"a look-alike must not pass as a card: {value}")

                def test(row):
                    if kind == "card" and row.true not in CARD_INTENTS:
                        return False
                    return row.channel != "phone" or fits_cp1252(clean)

                row = self.pick(test)
                if before:
                    row.message = sentence_end(clean) + " " + row.message
                else:
                    row.message = sentence_end(row.message) + " " + clean
                self.plant(kind, row, value=value)

    # -- labels

    def plant_labels(self) -> None:
        intents = sorted(CONFUSABLE)
        for i in range(36):
            intent = intents[i % len(intents)]
            row = self.pick(lambda r: r.true == intent, least=6)
            row.category = CONFUSABLE[intent][(i // len(intents)) % 2]
            self.plant("wrong_label", row, label=row.category)
        for kind, table in (("label_typo", LABEL_TYPOS), ("label_variant", LABEL_VARIANTS)):
            for intent, spelling, count in table:
                for _ in range(count):
                    row = self.pick(lambda r: r.true == intent)
                    row.category = spelling
                    self.plant(kind, row, label=spelling)
        for label in ("", "", "  "):
            row = self.pick()
            row.category = label
            self.plant("blank_label", row, label=label)

    # -- characters

    def plant_characters(self) -> None:
        for i in range(13):
            if i < 9:      # pounds, euros, accents
                row = self.pick(lambda r: r.channel == "web" and not r.message.isascii())
            else:          # curly apostrophes
                row = self.pick(lambda r: r.channel == "web" and curl(r.message) != r.message)
            original = curl(row.message)
            row.message = original.encode("utf-8").decode("cp1252")
            self.plant("mojibake", row, original=original)
        for i in range(8):
            row = self.pick(lambda r: r.channel != "phone", least=6)
            original = row.message
            parts = original.split(" ")
            if i % 2:      # no-break spaces
                row.message = " ".join(parts[:2]) + "\u00a0" + "\u00a0".join(parts[2:4]) + " " + " ".join(parts[4:])
                found = "U+00A0"
            else:          # a zero-width space inside the longest word
                n = max(range(len(parts)), key=lambda k: len(parts[k]))
                half = len(parts[n]) // 2
                parts[n] = parts[n][:half] + "\u200b" + parts[n][half:]
                row.message = " ".join(parts)
                found = "U+200B"
            self.plant("invisible_characters", row, original=original, characters=found)

    # -- duplicates

    def copy_of(self, row: Row, same_customer: bool, same_channel: bool, hours: int) -> Row:
        channel = row.channel
        if not same_channel:
            channel = self.rng.choice([c for c in FILES if c != row.channel])
            if channel == "phone" and not fits_cp1252(row.message):
                channel = "web"
        customer = row.customer
        while not same_customer and customer == row.customer:
            customer = self.rng.choice(self.rows).customer
        return Row(self.later_than(row.when, hours), customer, channel, row.message, row.category, row.true)

    def plant_duplicates(self) -> None:
        for i in range(30):
            same = i % 4 != 3
            row = self.pick((lambda r: True) if same else (lambda r: words(r.message) <= 10), least=4)
            copy = self.copy_of(row, same, same_channel=i % 2 == 0, hours=30 if same else 900)
            row.used = True
            self.rows.append(copy)
            self.plant("exact_duplicate", copy, copy_of=row, same_customer=same)
        for _ in range(4):
            row = self.pick(least=6)
            copy = self.copy_of(row, True, same_channel=False, hours=48)
            copy.category = CONFUSABLE[row.true][0]
            row.used = True
            self.rows.append(copy)
            self.plant("conflicting_duplicate", copy, copy_of=row, label=copy.category)

    SWAPS = [("parcel", "package"), ("please", "kindly"), ("can't", "cannot"),
             ("I'd like", "I want"), ("my", "our"), ("still", "yet"), ("Can you", "Could you"),
             ("haven't", "have not"), ("order", "purchase"), ("money", "cash"), ("the", "that")]

    def small_edit(self, text: str, number: int) -> tuple[str, str]:
        way = number % 6
        if way == 0:
            for old, new in self.SWAPS:
                if re.search(rf"\b{old}\b", text):
                    return re.sub(rf"\b{old}\b", new, text, count=1), "one word"
            way = 1
        if way == 1:
            return re.sub(r"[,.!?]+", "", text), "punctuation removed"
        if way == 2:
            return text.lower().rstrip(".!?"), "lower case"
        if way == 3:
            return "Hello, " + text, "greeting added"
        if way == 4:
            parts = text.split(" ")
            n = max(range(len(parts)), key=lambda k: sum(c.isalpha() for c in parts[k]))
            w = parts[n]
            k = len(w) // 2
            parts[n] = w[: k - 1] + w[k] + w[k - 1] + w[k + 1:]
            return " ".join(parts), "typing slip"
        return re.sub(r"[.!?]*$", "!!", text, count=1), "exclamation marks"

    def plant_near_duplicates(self) -> None:
        for i in range(34):
            same = i < 16
            row = self.pick(least=8)
            copy = self.copy_of(row, same, same_channel=i % 3 != 0, hours=200)
            number = i
            copy.message, edit = self.small_edit(row.message, number)
            while copy.message == row.message or (copy.channel == "phone" and not fits_cp1252(copy.message)):
                number += 1
                copy.message, edit = self.small_edit(row.message, number)
            row.used = True
            self.rows.append(copy)
            kind = "near_duplicate_same_customer" if same else "near_duplicate"
            self.plant(kind, copy, copy_of=row, edit=edit)

    # -- rows without content, and rows that are too long

    def extra(self, channel: str, message: str, label: str) -> Row:
        row = Row(self.moment(), self.new_customer(), channel, message, label)
        self.rows.append(row)
        return row

    def plant_contentless(self) -> None:
        intents = sorted(CONFUSABLE)
        for channel, message in (("email", ""), ("phone", ""), ("web", ""), ("web", "   "), ("email", "\u00a0 ")):
            self.plant("empty_message", self.extra(channel, message, self.rng.choice(intents)))
        for i, message in enumerate(read_lines(HERE / "plant_source" / "nonlanguage.txt")):
            row = self.extra(["web", "email", "phone"][i % 3], message, self.rng.choice(intents))
            self.plant("non_language", row)

    def plant_long(self) -> None:
        threads: dict[str, list[str]] = defaultdict(list)
        for intent, line in read_sections(HERE / "plant_source" / "long_threads.txt"):
            threads[intent].append(line)
        footer = threads.pop("footer")[0]
        for i, intent in enumerate(sorted(threads)):
            first, *rest = threads[intent]
            # A mail thread quotes itself again and again.
            text, depth = f"{first} {footer}", 0
            while words(text) <= 640:
                depth += 1
                mark = ">" * depth
                text += "".join(f" {mark} {line}" for line in (rest if depth == 1 else rest[:-depth])) + f" {mark} {footer}"
            row = self.extra("email" if i < 2 else "web", text, intent)
            self.plant("over_long", row, words=words(text))

    # -- rows that are not well-formed

    def plant_broken(self) -> None:
        texts = read_sections(HERE / "plant_source" / "broken.txt")
        comma = [t for t in texts if "," in t[1] and ";" not in t[1]]
        semicolon = [t for t in texts if ";" in t[1]]
        plain = [t for t in texts if t not in comma and t not in semicolon]

        def add(kind, channel, intent, text, raw):
            row = self.extra(channel, text, intent)
            row.raw = raw
            row.after_quoted = kind == "broken_unclosed_quote"
            self.plant(kind, row)

        def joined(row, delimiter):
            return delimiter.join(row.fields())

        for channel, source in (("email", comma), ("web", comma), ("phone", semicolon)):
            add("broken_too_many_fields", channel, *source.pop(0), joined)
        for channel, source in (("web", comma), ("phone", semicolon)):
            add("broken_unclosed_quote", channel, *source.pop(0),
                lambda row, d: d.join(row.fields()[:4] + ['"' + row.message, row.category]))
        for channel, source in (("email", plain), ("web", comma)):
            add("broken_too_few_fields", channel, *source.pop(0),
                lambda row, d: encode_record([*row.fields()[:2], *row.fields()[4:]], d))
        for channel, source in (("email", comma), ("phone", comma)):
            add("broken_nul_byte", channel, *source.pop(0),
                lambda row, d: encode_record(
                    [*row.fields()[:4], row.message[:9] + "\x00" + row.message[9:], row.category], d))
        for channel in ("web", "phone"):
            add("broken_only_id", channel, "", "", lambda row, d: row.ticket_id)

    # -- putting it together

    def build(self) -> None:
        self.base_rows()
        self.plant_personal_data()
        self.plant_labels()
        self.plant_characters()
        self.plant_duplicates()
        self.plant_near_duplicates()
        self.plant_contentless()
        self.plant_long()
        self.plant_broken()
        self.rows.sort(key=lambda r: (r.when, r.customer, r.message))
        for number, row in enumerate(self.rows):
            row.ticket_id = f"T-{100001 + number}"
