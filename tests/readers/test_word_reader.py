"""Word files, written with python-docx and by hand: what a reader of the page sees, in its order."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import pytest

from memfold.core.errors import DataError
from memfold.readers import word
from memfold.readers.files import open_document

SPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def saved(tmp_path: Path, fill: Callable[[Any], object], name: str = "report.docx") -> Path:
    document = docx.Document()
    fill(document)
    document.save(str(tmp_path / name))
    return tmp_path / name


def with_body(tmp_path: Path, body: str, **parts: str) -> Path:
    """A file whose body, and further parts, are this XML."""
    source = zipfile.ZipFile(saved(tmp_path, lambda document: None))
    target = tmp_path / "made.docx"
    with zipfile.ZipFile(target, "w") as file:
        for name in source.namelist():
            data = source.read(name).decode("utf-8", "surrogateescape")
            if name == "word/document.xml":
                data = re.sub(r"<w:body>.*</w:body>", lambda match: f"<w:body>{body}</w:body>", data, flags=re.DOTALL)
            elif name == "word/_rels/document.xml.rels":
                kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
                links = "".join(f'<Relationship Id="x{p}" Type="{kind}/{p}" Target="{p}.xml"/>' for p in parts)
                data = data.replace("</Relationships>", f"{links}</Relationships>")
            elif name == "[Content_Types].xml":
                kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
                links = "".join(f'<Override PartName="/word/{p}.xml" ContentType="{kind}.{p}+xml"/>' for p in parts)
                data = data.replace("</Types>", f"{links}</Types>")
            file.writestr(name, data.encode("utf-8", "surrogateescape"))
        for part, content in parts.items():
            file.writestr(f"word/{part}.xml", f'<w:{part} xmlns:w="{SPACE}">{content}</w:{part}>')
    return target


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def test_paragraphs_headings_lists_and_tables_keep_their_order(tmp_path: Path) -> None:
    def fill(document: Any) -> None:
        document.add_heading("The mills", 0)
        document.add_heading("Of the Sanu", 2)
        document.add_paragraph("Ada Lorn was born in Velm.\nShe left.")
        document.add_paragraph("")
        document.add_paragraph("one", style="List Bullet")
        document.add_paragraph("two", style="List Number")
        table = document.add_table(3, 3)
        for row, texts in enumerate([("Town", "Mayor", ""), ("Velm", "Ada\nLorn", "12"), ("Tor", "Ben", "9")]):
            for cell, text in zip(table.rows[row].cells, texts, strict=True):
                cell.text = text
        table.cell(0, 1).merge(table.cell(0, 2))
        document.add_paragraph("The end.")
        document.sections[0].header.paragraphs[0].text = "A running head"

    path = saved(tmp_path, fill)
    assert open_document(path).read() == (
        "# The mills\n\n## Of the Sanu\n\nAda Lorn was born in Velm.\nShe left.\n\n- one\n- two\n\n"
        "| Town | Mayor |\n| --- | --- |\n| Velm | Ada Lorn | 12 |\n| Tor | Ben | 9 |\n\nThe end.\n"
    )
    path.rename(tmp_path / "report")
    assert open_document(tmp_path / "report").read().startswith("# The mills")


def test_inserted_text_content_controls_links_and_text_boxes_are_read(tmp_path: Path) -> None:
    box = f"<w:r><w:pict><w:txbxContent><w:p>{run('In a box.')}</w:p></w:txbxContent></w:pict></w:r>"
    body = (
        f"<w:p>{run('Ada ')}<w:ins>{run('Lorn ')}</w:ins><w:del><w:r><w:delText>Sor </w:delText></w:r></w:del>"
        f"<w:hyperlink>{run('was born')}</w:hyperlink><w:r><w:tab/><w:t>in</w:t><w:noBreakHyphen/><w:t>Velm.</w:t>"
        "<w:instrText>PAGE</w:instrText></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>Hidden.</w:t></w:r>"
        f'<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t> Seen.</w:t></w:r>{box}</w:p>'
        f"<w:sdt><w:sdtPr/><w:sdtContent><w:p>{run('In a control.')}</w:p></w:sdtContent></w:sdt>"
        f"<w:tbl><w:tr><w:tc><w:p>{run('a')}</w:p><w:tbl><w:tr><w:tc><w:p>{run('inner')}</w:p></w:tc></w:tr></w:tbl>"
        f"</w:tc><w:tc><w:sdt><w:sdtContent><w:p>{run('b')}</w:p></w:sdtContent></w:sdt></w:tc></w:tr></w:tbl>"
    )
    assert open_document(with_body(tmp_path, body)).read() == (
        "Ada Lorn was born\tin-Velm. Seen.\n\nIn a box.\n\nIn a control.\n\n| a inner | b |\n| --- | --- |\n"
    )


@pytest.mark.parametrize("kind", ["footnote", "endnote"])
def test_notes_follow_their_paragraph(tmp_path: Path, kind: str) -> None:
    body = f'<w:p>{run("Velm is old.")}<w:r><w:{kind}Reference w:id="2"/></w:r></w:p><w:p>{run("It is small.")}</w:p>'
    notes = "".join(
        f'<w:{kind} w:id="{number}"><w:p>{run(text)}</w:p></w:{kind}>'
        for number, text in ((2, "From 1201."), (3, "No."))
    )
    path = with_body(tmp_path, body, **{f"{kind}s": notes})
    assert open_document(path).read() == "Velm is old.\n\nFrom 1201.\n\nIt is small.\n"


def test_a_file_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.docx has no text; if it holds pictures of text"):
        open_document(saved(tmp_path, lambda document: document.add_paragraph(" ")))


@pytest.mark.parametrize("part", ["word/document.xml", "[Content_Types].xml", "word/styles.xml"])
def test_a_damaged_file_is_one_line(tmp_path: Path, part: str) -> None:
    source = zipfile.ZipFile(io.BytesIO(saved(tmp_path, lambda document: document.add_paragraph("Velm.")).read_bytes()))
    with zipfile.ZipFile(tmp_path / "report.docx", "w") as file:
        for name in source.namelist():
            file.writestr(name, source.read(name)[: -40 if name == part else None])
    with pytest.raises(DataError, match=r"report\.docx is damaged or not a \.docx file: .*; open it and") as caught:
        open_document(tmp_path / "report.docx")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda document: document.add_paragraph("Velm."))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"report\.docx is damaged or not a \.docx file"):
        open_document(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, lambda document: document.add_paragraph("Velm. " * 10_000))
    assert path.stat().st_size < 50_000
    for limit, what in (("LARGEST", "bytes"), ("LARGEST_XML", "bytes of XML")):
        with monkeypatch.context() as patched:
            patched.setattr(word, limit, 50_000)
            with pytest.raises(DataError, match=rf"report\.docx unpacks to [\d,]+ {what}; at most 50,000 can be read"):
                open_document(path)


def test_without_the_package_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, lambda document: document.add_paragraph("Velm."))
    monkeypatch.setitem(sys.modules, "docx", None)
    with pytest.raises(
        DataError, match=r"is a \.docx file, which needs python-docx; pip install 'memfold\[documents\]'"
    ):
        open_document(path)
