"""Extracts the text of a Word file (.docx) as Markdown: headings, lists, tables, and notes after their paragraph.

python-docx opens the file.  Its elements are walked here, because its paragraphs leave out inserted text, content
controls and text boxes.  Deleted and hidden text, headers, footers, comments and pictures are left out, and so are the
numbers of lists, which a file does not hold.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from memfold.core.errors import DocumentError
from memfold.readers.text import open_bytes

LARGEST, LARGEST_XML = 1 << 30, 1 << 27  # bytes of a file when unpacked, and of its XML, which takes more RAM
SPACE = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MARKUP = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
# what a reader of the page does not see, or sees a second time
HIDDEN = {f"{SPACE}{name}" for name in ("del", "moveFrom", "delText", "instrText", "pPr", "rPr", "tblPr", "sdtPr")}
HIDDEN |= {f"{MARKUP}Fallback"}
NOTES = ("footnote", "endnote")
CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_HEADING = re.compile(r"(?:title|heading (\d))$", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A paragraph or a table."""

    text: str
    is_item: bool = False  # of a list


def read_word(path: Path) -> Iterator[str]:
    """Yield the text of each paragraph and table.

    Raises:
        DocumentError: if the file is damaged, not a .docx file or too large, or has no text.
    """
    try:
        import docx
    except ImportError:
        raise DocumentError(
            path, "is a .docx file, which needs python-docx; pip install 'memfold[documents]'"
        ) from None
    blank = True
    with open_bytes(path) as file:
        try:
            _check_size(path)
            body = _Body(docx.Document(file))
            for text in body.blocks():
                blank = blank and not text.strip()
                yield text
        except DocumentError:
            raise
        except Exception as error:  # python-docx lets the errors of zipfile, lxml and its own code through
            what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DocumentError(path, f"is damaged or not a .docx file: {what}; open it and save it again") from None
    if blank:
        raise DocumentError(path, "has no text; if it holds pictures of text, save it as PDF and run OCR")


def _check_size(path: Path) -> None:
    """Refuse a file that unpacks to more than RAM may hold."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    size, xml = sum(part.file_size for part in parts), sum(p.file_size for p in parts if p.filename.endswith(".xml"))
    for found, most, what in ((size, LARGEST, "bytes"), (xml, LARGEST_XML, "bytes of XML")):
        if found > most:
            raise DocumentError(
                path, f"unpacks to {found:,} {what}; at most {most:,} can be read, save it as plain text"
            )


class _Body:
    """The paragraphs, tables and notes of a document."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._styles = {style.style_id: style.name or "" for style in document.styles}
        self._notes: dict[str, dict[str, list[Block]]] = {}
        for kind in NOTES:
            self._notes[kind] = self._read_notes(kind)

    def blocks(self) -> Iterator[str]:
        """Yield paragraphs and tables, each with its line ends; a blank line is between them, but not between items."""
        for number, (before, block) in enumerate(
            pairwise(chain([Block("")], self._blocks(self._document.element.body)))
        ):
            together = number == 0 or (before.is_item and block.is_item)
            yield f"{block.text}\n" if together else f"\n{block.text}\n"

    def _blocks(self, parent: Any) -> Iterator[Block]:
        for element in parent.iterchildren():
            yield from self._block(element)

    def _block(self, element: Any) -> Iterator[Block]:
        if element.tag == f"{SPACE}p":
            yield from self._paragraph(element)
        elif element.tag == f"{SPACE}tbl":
            rows = [row for row in self._rows(element) if any(row)]
            lines = [f"| {' | '.join(row)} |" for row in rows]
            if rows:
                yield Block("\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]))
        elif element.tag not in HIDDEN and isinstance(element.tag, str):
            yield from self._blocks(element)  # such as a content control

    def _paragraph(self, paragraph: Any) -> Iterator[Block]:
        text = "".join(self._characters(paragraph)).strip("\n ")
        if text.strip():
            style = self._style(paragraph)
            heading = _HEADING.match(style)
            is_item = paragraph.find(f"{SPACE}pPr/{SPACE}numPr") is not None or style.lower().startswith("list")
            mark = f"{'#' * int(heading[1] or 1)} " if heading else "- " if is_item else ""
            yield Block(f"{mark}{text}", is_item and not heading)
        for box in paragraph.iter(f"{SPACE}txbxContent"):
            if not any(above.tag in HIDDEN for above in box.iterancestors()):
                yield from self._blocks(box)
        for kind, notes in self._notes.items():
            for reference in paragraph.iter(f"{SPACE}{kind}Reference"):
                yield from notes.get(reference.get(f"{SPACE}id"), ())

    def _characters(self, element: Any) -> Iterator[str]:
        """Yield the visible text of a paragraph or a part of it; what is in a text box is a paragraph of its own."""
        for child in element.iterchildren():
            name = child.tag.removeprefix(SPACE) if isinstance(child.tag, str) else ""
            if name == "t":
                yield child.text or ""
            elif name in CHARACTERS:
                yield CHARACTERS[name]
            elif name and child.tag not in HIDDEN and name != "txbxContent" and not _is_hidden(child):
                yield from self._characters(child)

    def _rows(self, table: Any) -> Iterator[list[str]]:
        """Yield the texts of the cells of each row; a merged cell is there once."""
        for row in table.iter(f"{SPACE}tr"):
            if next(row.iterancestors(f"{SPACE}tbl")) is not table:
                continue  # of a table in a cell
            cells = [cell for cell in row.iter(f"{SPACE}tc") if next(cell.iterancestors(f"{SPACE}tr")) is row]
            yield [" ".join(self._cell(cell).split()) for cell in cells]

    def _cell(self, cell: Any) -> str:
        """Return the text of a cell, and of a table in it."""
        texts: list[str] = []
        for element in cell.iterchildren():
            if element.tag == f"{SPACE}tbl":
                texts += (" ".join(row) for row in self._rows(element))
            else:
                texts += (block.text for block in self._block(element))
        return " ".join(texts)

    def _style(self, paragraph: Any) -> str:
        style = paragraph.find(f"{SPACE}pPr/{SPACE}pStyle")
        return self._styles.get(style.get(f"{SPACE}val"), "") if style is not None else ""

    def _read_notes(self, kind: str) -> dict[str, list[Block]]:
        """Return the paragraphs of the footnotes or endnotes by their ids."""
        from docx.oxml import parse_xml

        for relation in self._document.part.rels.values():
            if relation.reltype.endswith(f"/{kind}s") and not relation.is_external:
                notes = parse_xml(relation.target_part.blob).iter(f"{SPACE}{kind}")
                return {note.get(f"{SPACE}id"): list(self._blocks(note)) for note in notes}
        return {}


def _is_hidden(run: Any) -> bool:
    """Whether text is formatted as hidden."""
    hidden = run.find(f"{SPACE}rPr/{SPACE}vanish")
    return hidden is not None and hidden.get(f"{SPACE}val") not in ("0", "false", "off")
