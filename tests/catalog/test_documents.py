"""Source `documents`: each file one row with its whole text; broken ones are problems with places, and cost no other."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.errors import DataError, MachineError

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def write_docx(path: Path, heading: str, text: str) -> None:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    related = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        )
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{related}" Target="word/document.xml"/></Relationships>')
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{WORD}"><w:body><w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>{heading}</w:t></w:r></w:p><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>',
        )


def write_pdf(path: Path, text: str) -> None:
    """One page with a line of text, written by hand."""
    stream = f"BT /F1 18 Tf 72 700 Td ({text}) Tj ET" if text else ""
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj{one}endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    path.write_text(f"{body}xref\n0 6\n0000000000 65535 f \n{table}trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF", encoding="latin-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "manuals" / "older"
    inside.mkdir(parents=True)
    (tmp_path / "manuals" / "a.txt").write_text("Plain text.\n\nIts second part.")
    (tmp_path / "manuals" / "b.md").write_text("# The title\n\nThe body.")
    (tmp_path / "manuals" / "c.html").write_text("<html><head><title>A page</title><style>p {}</style></head><body><h1>Head</h1><p>Said here.</p><script>alert(1)</script></body></html>")
    write_docx(inside / "d.docx", "A letter", "Dear reader.")
    write_pdf(inside / "e.pdf", "Pages of a manual")
    (inside / "f.txt").write_bytes("Größe".encode("cp1252"))
    return tmp_path


def source(**keys: Any) -> Any:
    return catalog.build("sources", {"name": "documents", **keys})


def test_every_kind_of_document_is_one_row(folder: Path) -> None:
    pytest.importorskip("kreuzberg")
    rows = {record.place: record.values for record in source().read("manuals", folder)}
    assert list(rows) == ["manuals/a.txt:1", "manuals/b.md:1", "manuals/c.html:1", "manuals/older/d.docx:1", "manuals/older/e.pdf:1", "manuals/older/f.txt:1"]
    values = [one or {} for one in rows.values()]
    assert [one["title"] for one in values] == ["a", "The title", "A page", "A letter", "e", "f"]
    assert values[0]["text"] == "Plain text.\n\nIts second part."
    assert "Said here." in values[2]["text"]
    assert "alert" not in values[2]["text"]
    assert "A page" not in values[2]["text"], "what stands in the head of a page is no text of it"
    assert "Dear reader." in values[3]["text"]
    assert "Pages of a manual" in values[4]["text"]
    assert values[5] == {"text": "Größe", "title": "f", "path": "manuals/older/f.txt"}


def test_broken_documents_are_problems_with_places_and_ways_out(folder: Path) -> None:
    pytest.importorskip("kreuzberg")
    (folder / "manuals" / "broken.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (folder / "manuals" / "broken.docx").write_bytes(b"PK\x03\x04 and then nothing")
    (folder / "manuals" / "empty.md").write_text("")
    write_pdf(folder / "manuals" / "scanned.pdf", "")
    records = list(source().read("manuals", folder))
    assert sum(record.values is not None for record in records) == 6
    bad = {record.place: record for record in records if record.values is None}
    assert sorted(bad) == ["manuals/broken.docx:1", "manuals/broken.pdf:1", "manuals/empty.md:1", "manuals/scanned.pdf:1"]
    assert all(record.problem and record.fix for record in bad.values())
    assert "OCR" in (bad["manuals/scanned.pdf:1"].fix or "")


def test_a_long_document_stays_whole(tmp_path: Path) -> None:
    text = "One sentence of many. " * 50_000
    (tmp_path / "long.txt").write_text(text)
    (record,) = source().read("long.txt", tmp_path)
    assert record.values["text"] == text


def test_what_it_recognises(folder: Path) -> None:
    assert source().recognises("manuals", folder)
    assert source().recognises("manuals/*.md", folder)
    assert not source().recognises("manuals/a.txt", folder), "one file has to be named with its source"
    assert not source().recognises("nothing", folder)
    (folder / "manuals" / "rows.csv").write_text("a,b\n1,2\n")
    assert not source().recognises("manuals", folder), "tables lie there"
    for label in ("good", "bad"):
        (folder / "labels" / label).mkdir(parents=True)
        (folder / "labels" / label / "x.txt").write_text("x")
    assert not source().recognises("labels", folder), "a folder per label is another source's"


def test_a_missing_reader_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match="kreuzberg") as caught:
        list(source().read("manuals", folder))
    assert "attune[docs]" in (caught.value.fix or "")
    assert len(list(source(suffixes=[".txt"]).read("manuals", folder))) == 2


def test_no_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no documents"):
        list(source().read("nothing", tmp_path))


def test_the_fingerprint_follows_content_and_place(folder: Path) -> None:
    before = source().fingerprint("manuals", folder)
    assert before == source().fingerprint("manuals", folder)
    (folder / "manuals" / "a.txt").rename(folder / "manuals" / "older" / "a.txt")
    assert source().fingerprint("manuals", folder) != before
