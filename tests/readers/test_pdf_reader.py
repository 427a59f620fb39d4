"""PDF files, written by hand in `pdf_file`: the text in reading order, and what is told of a file without one."""

from __future__ import annotations

import gc
import hashlib
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pdf_file import Placed, pdf_file

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.readers.files import open_document
from memfold.readers.pdf import read_pdf

MakePdf = Callable[..., bytes]
SENTENCE = (
    "the river Sanu rises in the hills of Tor and runs for ninety kilometres to the sea at Velm where its mills once "
    "ground all the grain of the province and the guild of millers kept the books until the flood of that year"
)
PROSE = SENTENCE.split()


def column(words: Sequence[str], x: float, top: float = 700, width: int = 38, size: float = 12) -> list[Placed]:
    """Words in lines of at most `width` characters, below each other."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [Placed(x, top - 14 * number, line, size) for number, line in enumerate(lines)]


def read(tmp_path: Path, *pages: Sequence[Placed]) -> str:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_file(pages))
    return "".join(read_pdf(path))


def test_pages_follow_each_other(tmp_path: Path, make_pdf: MakePdf) -> None:
    path = tmp_path / "Report.PDF"
    path.write_bytes(make_pdf("Ada Lorn wrote\n20 books (and (a) play).", "", "Velm is a town."))
    document = open_document(path)
    assert document.source == "Report.PDF"
    assert document.read() == "Ada Lorn wrote\n20 books (and (a) play).\nVelm is a town.\n"
    assert document.sha256() == hashlib.sha256(document.read().encode()).hexdigest()
    assert document.characters == len(document.read())


def test_the_lines_of_a_paragraph_are_one_line(tmp_path: Path) -> None:
    heading = Placed(50, 720, "The mills", 18, "Helvetica-Bold")
    second = column(["Another", "paragraph", "begins", "here."], 50, 560)
    text = read(tmp_path, [heading, *column(PROSE, 50), *second])
    assert text == f"The mills\n{' '.join(PROSE)}\nAnother paragraph begins here.\n"


def test_columns_of_prose_follow_each_other(tmp_path: Path) -> None:
    text = read(tmp_path, [*column(PROSE, 50), *column(PROSE[::-1], 330)])
    assert text == f"{' '.join(PROSE)} {' '.join(PROSE[::-1])}\n"
    narrow = [placed for x in (50, 200, 350) for placed in column(PROSE, x, width=22)]
    assert read(tmp_path, narrow).split() == PROSE * 3


TABLE = [("Town", "Mayor", "People"), ("Velm", "Ada Lorn", "1200"), ("Tor", "Ben Sor of Velm", "90")]
CELLS = [
    [Placed(x, 650 - 16 * row, text) for x, text in zip((50, 150, 300), texts, strict=True)]
    for row, texts in enumerate(TABLE)
]


@pytest.mark.parametrize("order", ["by row", "by column"])
def test_a_table_keeps_its_rows(tmp_path: Path, order: str) -> None:
    cells = CELLS if order == "by row" else [list(column) for column in zip(*CELLS, strict=True)]
    before, after = Placed(50, 680, "The table has three columns."), Placed(50, 580, "It ends here.")
    text = read(tmp_path, [before, *(cell for part in cells for cell in part), after])
    rows = "\n".join("  ".join(row) for row in TABLE)
    assert text == f"The table has three columns.\n{rows}\nIt ends here.\n"


def test_source_code_keeps_its_lines(tmp_path: Path) -> None:
    code = ["for town in towns:", "print(town.name, town.mayor)", "print(town)"]
    lines = [Placed(50, 700 - 14 * number, line, 12, "Courier") for number, line in enumerate(code)]
    assert read(tmp_path, lines) == "\n".join(code) + "\n"


def test_lists_keep_their_items(tmp_path: Path) -> None:
    items = ["1. The first item is as long as the column,", "and goes on here.", "2. The second item is long as well."]
    lines = [Placed(64 if item[0] == "a" else 50, 700 - 14 * number, item) for number, item in enumerate(items)]
    assert read(tmp_path, lines) == f"{items[0]} {items[1]}\n{items[2]}\n"
    contents = [f"{title} . . . . . . . . . . . {page}" for title, page in (("The mills", 3), ("The flood", 17))]
    lines = [Placed(50, 700 - 14 * number, entry) for number, entry in enumerate(contents)]
    assert read(tmp_path, lines) == "\n".join(contents) + "\n"


def test_hyphens_at_line_ends_are_removed_unless_they_belong_to_the_word(tmp_path: Path) -> None:
    lines = [
        "The mill is a well-known exam-",
        "ple of the old, and a well-",
        "known one of the years 1999-",
        "2000 in Anglo-",
    ]
    text = read(tmp_path, [Placed(50, 700 - 14 * number, line) for number, line in enumerate([*lines, "Saxon lands."])])
    words = "The mill is a well-known example of the old, and a well-known one of the years 1999-2000 in Anglo-Saxon"
    assert text == f"{words} lands.\n"


def test_a_sentence_goes_on_on_the_next_page(tmp_path: Path) -> None:
    """Running heads, page numbers, an empty page and a hyphen stand between."""
    half = len(PROSE) // 2

    def page(number: int, words: Sequence[str]) -> list[Placed]:
        head, foot = Placed(50, 760, "Mills of the Sanu"), Placed(300, 30, f"- {number} -")
        return [head, Placed(480, 760, "Chapter 1"), *column(words, 50), foot]

    parts = [PROSE[:half], [*PROSE[half:-1], "riv-"], ["er", "bed."]]
    text = read(tmp_path, page(1, parts[0]), [], page(3, parts[1]), page(4, parts[2]))
    assert text == f"Mills of the Sanu  Chapter 1\n{' '.join(PROSE[:-1])} river bed.\n"


def test_what_repeats_in_the_middle_of_pages_stays(tmp_path: Path, make_pdf: MakePdf) -> None:
    pages = [[Placed(50, 400, "Dear Ada,"), Placed(50, 380, f"letter {number} of many.")] for number in (3, 9)]
    assert read(tmp_path, *pages) == "Dear Ada,\nletter 3 of many.\nDear Ada,\nletter 9 of many.\n"


def test_pages_are_read_one_at_a_time(tmp_path: Path, make_pdf: MakePdf) -> None:
    def peak(pages: int) -> int:
        """The most bytes in use after any page."""
        path = tmp_path / "a.pdf"
        path.write_bytes(make_pdf(*["\n".join(["word " * 80] * 40)] * pages))
        gc.collect()
        gc.freeze()  # what other tests left need not be looked at after every page
        tracemalloc.start()
        used = []
        for _ in read_pdf(path):
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        gc.unfreeze()
        return max(used)

    peak(1)  # allocates what the library caches
    text = (16 - 6) * len("word " * 3200)  # far more than what the library keeps of a page, 1 KB
    assert peak(16) - peak(6) < text / 4


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_file([column(PROSE, 50) for _ in range(8)]))
    expected = "".join(read_pdf(path))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: "".join(read_pdf(path)), range(8))) == {expected}


def test_a_pdf_without_text_asks_for_ocr(tmp_path: Path, make_pdf: MakePdf) -> None:
    (tmp_path / "scan.pdf").write_bytes(make_pdf("", " "))
    with pytest.raises(DataError, match=r"scan\.pdf has no text on any of its pages; run OCR first"):
        open_document(tmp_path / "scan.pdf")


def test_a_password_is_refused_unless_it_is_empty(tmp_path: Path, make_pdf: MakePdf) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("Secret.", password="word"))
    with pytest.raises(DataError, match=r"a\.pdf is encrypted; save a copy without a password"):
        open_document(path)
    path.write_bytes(make_pdf("Not so secret.", password=""))
    assert open_document(path).read() == "Not so secret.\n"


@pytest.mark.parametrize("keep", [0, 4, 40, 300])
def test_a_truncated_file_is_a_one_line_error(
    tmp_path: Path, make_pdf: MakePdf, keep: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("Velm is a town.")[:keep])
    with pytest.raises(DataError) as caught:
        open_document(path)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_table_of_offsets_is_repaired(
    tmp_path: Path, make_pdf: MakePdf, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("Velm is a town.").replace(b"startxref\n", b"startxref\n9"))
    assert open_document(path).read() == "Velm is a town.\n"
    assert capfd.readouterr() == ("", "")


def test_another_format_under_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("Velm is a town.\n" * 100)
    with pytest.raises(DataError, match=r"a\.pdf is damaged or not a PDF: .*; open it in a viewer"):
        open_document(tmp_path / "a.pdf")


def test_without_the_package_the_error_names_the_command(
    tmp_path: Path, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Velm."))
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(DataError, match=r"a\.pdf is a PDF, which needs pypdfium2; pip install 'memfold\[documents\]'"):
        open_document(tmp_path / "a.pdf")


def test_unpaired_surrogates_and_nuls_are_replaced(
    tmp_path: Path, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfold.readers.pdf.running_text", lambda pages: iter(["a\ud83d\ude00b\ud83d", "\0c"]))
    (tmp_path / "a.pdf").write_bytes(make_pdf("Velm."))
    assert Document("a", path=tmp_path / "a.pdf").read() == "a\U0001f600b\ufffdc"
