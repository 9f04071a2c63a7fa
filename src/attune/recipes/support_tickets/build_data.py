#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build the messy support-ticket files from the hand-written sources.

Reads ``tickets_source/`` (one clean ticket per line, one file per intent),
``plant_source/`` (hand-written material for the planted faults) and
``later_source/`` (two further sets of clean tickets), and writes

* ``data/tickets_email.csv``, ``data/tickets_phone.csv``, ``data/tickets_web.csv``
* ``later/tickets_same.csv``, ``later/tickets_later.csv``
* ``planted.json``: every planted fault, where it is, and what a correct
  curation does with it.

Standard library only, no network, fixed seed: two runs give the same bytes.

    python build_data.py            # write next to this script
    python build_data.py --out DIR  # write under DIR instead
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path

sys.dont_write_bytecode = True  # this folder is copied as it is

from planting import Builder, COLUMNS, DROPPED_KINDS, EXPECTED, FILES, HERE, Row, SEED, encode_record, read_sections


def lay_out(rows: list[Row], channel: str) -> list[Row]:
    """The rows of one file in time order; an unclosed quote is moved to stand
    directly before a row whose message is quoted, so that even a reader that
    does not recover loses only a few rows."""
    delimiter = FILES[channel]["delimiter"]
    mine = [r for r in rows if r.channel == channel]
    moving = [r for r in mine if r.after_quoted]
    mine = [r for r in mine if not r.after_quoted]
    for row in moving:
        place = next(i for i, r in enumerate(mine)
                     if r.when > row.when and r.raw is None and not r.used
                     and delimiter in r.message and '"' not in r.message)
        mine.insert(place, row)
    return mine


def write_main(builder: Builder, out: Path) -> dict:
    described = {}
    for channel, form in FILES.items():
        delimiter = form["delimiter"]
        records = [encode_record(COLUMNS, delimiter)]
        for row in lay_out(builder.rows, channel):
            record = row.raw(row, delimiter) if row.raw else encode_record(row.fields(), delimiter)
            if "\n" in record or "\r" in record:
                raise ValueError("every record has to stay on one physical line")
            records.append(record)
            row.line = len(records)
        target = out / form["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(("\n".join(records) + "\n").encode(form["encoding"]))
        described[form["file"]] = {
            "encoding": form["encoding"], "delimiter": delimiter,
            "byte_order_mark": form["encoding"] == "utf-8-sig",
            "lines": len(records), "records": len(records) - 1,
        }
    return described


def write_planted(builder: Builder, files: dict, out: Path) -> None:
    place = {channel: form["file"] for channel, form in FILES.items()}

    def where(row):
        return {"file": place[row.channel], "line": row.line, "ticket_id": row.ticket_id}

    kinds = {}
    for kind, pairs in builder.planted.items():
        items = []
        for row, more in sorted(pairs, key=lambda p: p[0].ticket_id):
            item = where(row)
            if row.true and kind not in ("empty_message", "non_language"):
                item["true_label"] = row.true
            for key, value in more.items():
                item[key] = where(value) if isinstance(value, Row) else value
            items.append(item)
        kinds[kind] = items

    kinds["file_format"] = [
        {"file": name, "line": 1, "ticket_id": None, "encoding": form["encoding"], "delimiter": form["delimiter"]}
        for name, form in files.items()
        if form["encoding"] != "utf-8" or form["delimiter"] != ","
    ]

    by_customer = defaultdict(list)
    for row in builder.rows:
        if row.raw is None:
            by_customer[row.customer].append(row)
    kinds["customer_in_several_rows"] = [
        {"customer": customer, "rows": [where(r) for r in rows]}
        for customer, rows in sorted(by_customer.items()) if len(rows) > 1
    ]

    dropped = {item["ticket_id"] for kind in DROPPED_KINDS for item in kinds[kind]}
    untouched = [r for r in builder.rows if r.ticket_id not in dropped]
    planted = {
        "about": "Every fault planted in data/. 'line' is the 1-based physical line on which the record "
                 "starts (the header is line 1); each record stands on one physical line.",
        "seed": SEED,
        "files": files,
        "totals": {
            "records": len(builder.rows),
            "broken": sum(r.raw is not None for r in builder.rows),
            "readable": sum(r.raw is None for r in builder.rows),
            "usable": len(untouched),
            "usable_by_intent": dict(sorted(Counter(r.true for r in untouched).items())),
            "customers": len(by_customer),
            "customers_with_several_rows": len(kinds["customer_in_several_rows"]),
            "rows_of_customers_with_several_rows": sum(
                len(item["rows"]) for item in kinds["customer_in_several_rows"]),
        },
        "dropped_kinds": DROPPED_KINDS,
        "counts": {kind: len(items) for kind, items in kinds.items()},
        "kinds": {kind: {"expected": EXPECTED[kind], "count": len(items), "items": items}
                  for kind, items in kinds.items()},
        "true_labels": {r.ticket_id: r.true for r in builder.rows
                        if r.true and r.raw is None and r.message.strip()
                        and r.ticket_id not in {i["ticket_id"] for i in kinds["non_language"]}},
    }
    text = json.dumps(planted, indent=1, ensure_ascii=True) + "\n"
    (out / "planted.json").write_bytes(text.encode("ascii"))


def write_later(builder: Builder, name: str, first_id: int, start: datetime, days: int,
                weights: dict[str, int], out: Path) -> None:
    rng = builder.rng
    known = sorted({r.customer for r in builder.rows})
    tickets = read_sections(HERE / "later_source" / f"{name}.txt")
    rng.shuffle(tickets)
    moments = sorted(builder.moment(start, days) for _ in tickets)
    records = [encode_record(COLUMNS, ",")]
    for number, ((intent, text), when) in enumerate(zip(tickets, moments)):
        customer = rng.choice(known) if rng.random() < 0.25 else builder.new_customer()
        channel = rng.choices(list(weights), weights=list(weights.values()))[0]
        records.append(encode_record(
            [f"T-{first_id + number}", when.isoformat(), customer, channel, text, intent], ","))
    target = out / "later" / f"tickets_{name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(("\n".join(records) + "\n").encode("utf-8"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: next to this script)")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    builder = Builder()
    builder.build()
    files = write_main(builder, out)
    write_planted(builder, files, out)
    usual = {"email": 40, "phone": 25, "web": 35}
    write_later(builder, "same", 200001, datetime(2026, 6, 29), 21, usual, out)
    write_later(builder, "later", 300001, datetime(2026, 7, 20), 42, {"email": 20, "phone": 15, "web": 65}, out)


if __name__ == "__main__":
    main()
