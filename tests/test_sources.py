"""What users name becomes documents: which are opened, how they are called, and what is skipped and why."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from memfold.core.errors import DataError
from memfold.sources import Inputs, distinct, gather, given_inputs, is_memory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(**texts: str | bytes) -> None:
    """Write files; `d__a_txt` is `d/a.txt`."""
    for name, text in texts.items():
        path = Path(name.replace("__", "/").replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def names(inputs: Inputs) -> list[str]:
    return [document.source for document in inputs.documents]


def skipped(inputs: Inputs) -> dict[str, str]:
    return {each.source: each.reason.partition(";")[0] for each in inputs.skipped}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["d1/a.txt"], ["a.txt"]),
        (["d1/a.txt", "d1/sub/b.txt"], ["a.txt", "sub/b.txt"]),
        (["d1/a.txt", "d2/a.txt"], ["d1/a.txt", "d2/a.txt"]),
        (["d1"], ["a.txt", "sub/b.txt"]),
        (["d1", "d2"], ["d1/a.txt", "d1/sub/b.txt", "d2/a.txt"]),
        (["d2", "c.txt"], ["d2/a.txt", "c.txt"]),
        (["."], ["c.txt", "d1/a.txt", "d1/sub/b.txt", "d2/a.txt"]),
        (["./d1/../d1/a.txt", "d1/a.txt", "d1"], ["a.txt", "sub/b.txt"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_names_are_paths_from_the_common_folder(
    here: Path, given: list[str], expected: list[str], absolute: bool
) -> None:
    written(d1__a_txt="one", d1__sub__b_txt="two", d2__a_txt="three", c_txt="four")
    inputs = gather([here / name for name in given] if absolute else given)
    assert names(inputs) == expected
    assert inputs.searched == any(Path(name).is_dir() for name in given)


def test_a_named_file_must_be_readable_and_a_found_one_is_skipped(here: Path) -> None:
    written(d__a_txt="one", d__b_bin=b"a\0", d__c_txt="", d__d_pdf=b"%PDF-1.4", d__e_txt=b"caf\xe9")
    inputs = gather(["d"])
    assert names(inputs) == ["a.txt"]
    assert skipped(inputs) == {
        "b.bin": "is binary: byte 0x00 at offset 1",
        "c.txt": "is empty",
        "d.pdf": "is damaged or not a PDF: Failed to load document (PDFium: Data format error)",
        "e.txt": "is not UTF-8: byte 0xe9 at offset 3",
    }
    for given in (["d/b.bin"], ["d", "d/b.bin"], ["d/b.bin", "d"], ["d/a.txt", "d/c.txt"], ["d", "missing"]):
        with pytest.raises(DataError, match=r"is binary|is empty|does not exist"):
            gather(given)


def test_an_empty_name_is_not_the_current_folder(here: Path) -> None:
    """As of a variable of a shell that is not set."""
    written(a_txt="one")
    for given in ([""], ["a.txt", ""]):
        with pytest.raises(DataError, match="the name of a document is empty; name a file or a folder"):
            gather(given)
        with pytest.raises(DataError, match="the name of a document is empty"):
            given_inputs(given, None)
    with pytest.raises(DataError, match="the name of a text is empty; give it a name"):
        given_inputs(None, {"a": "one", "": "two"})


def test_a_folder_without_a_readable_file_is_an_error(here: Path) -> None:
    written(d__a_bin=b"a\0", d__b_txt="", d__c_txt=" ", d___d="x", other__a_txt="one")
    Path("empty").mkdir()
    for given in (["d"], ["other", "d"], ["d", "other/a.txt"]):
        with pytest.raises(
            DataError, match=r"the folder d holds no file that can be read \(.*a\.bin is binary"
        ) as caught:
            gather(given)
        assert str(caught.value).count(" is ") == 3
        assert "and 1 more" in str(caught.value)
    with pytest.raises(DataError, match="the folder empty holds no file that can be read, it is empty"):
        gather(["empty"])
    with pytest.raises(DataError, match="no documents; name at least one file"):
        gather([])


def test_a_named_folder_that_cannot_be_read_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    written(d__a_txt="one")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"^d cannot be read: Permission denied; give a folder that can be read"):
        gather(["d"])


def test_what_is_named_and_found_is_not_skipped(here: Path) -> None:
    written(d__a_txt="one", d___hidden="two")
    assert skipped(gather(["d"])) == {".hidden": "is hidden"}
    inputs = gather(["d", "d/.hidden"])
    assert (names(inputs), skipped(inputs)) == (["a.txt", ".hidden"], {})


def test_a_text_is_taken_once(here: Path) -> None:
    written(d__a_txt="one", d__b_txt="one", d__c_txt="two", e_txt="two", f_txt=b"\xef\xbb\xbftwo")
    inputs = distinct(gather(["d", "e.txt", "f.txt"]))
    assert names(inputs) == ["d/a.txt", "d/c.txt"]
    assert [(each.source, each.same_as) for each in inputs.skipped] == [
        ("d/b.txt", "d/a.txt"),
        ("e.txt", "d/c.txt"),
        ("f.txt", "d/c.txt"),
    ]
    assert str(inputs.skipped[0]) == "d/b.txt has the same text as d/a.txt"


def held(**texts: str) -> SimpleNamespace:
    """A memory of these texts."""
    inputs = given_inputs(None, texts)
    hashes = tuple(document.sha256() for document in inputs.documents)
    return SimpleNamespace(sources=tuple(names(inputs)), sha256=hashes)


def test_what_a_memory_holds_is_skipped_and_its_names_are_taken(here: Path) -> None:
    written(d1__a_txt="one", d2__a_txt="two", d2__b_txt="three")
    memory = held(**{"a.txt": "one", "d2/a.txt": "zero", "b.txt": "five", "text 2": "six"})
    inputs = distinct(gather(["d1/a.txt"]), memory, "m.fold")
    assert (names(inputs), [str(each) for each in inputs.skipped]) == (
        [],
        ["a.txt has the same text as a.txt in m.fold"],
    )
    assert inputs.skipped[0].same_as == "a.txt"
    last = here.name
    assert names(distinct(gather(["d2"]), memory)) == [f"{last}/d2/a.txt", "d2/b.txt"]
    assert names(given_inputs(None, {"a.txt": "ten", "b.txt": "eleven"}, memory)) == ["a.txt (2)", "b.txt (2)"]
    assert names(given_inputs(None, ["ten", "eleven"], memory)) == ["text 5", "text 6"]


def test_standard_input_and_pipes_are_read_once(here: Path) -> None:
    written(d__a_txt="one", stdin="two")
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=[b"three"])
    writer.start()
    inputs = distinct(gather(["d", "-", "pipe", "stdin", "-"], io.BytesIO(b"four")))
    writer.join()
    assert names(inputs) == ["d/a.txt", "stdin", "pipe", f"{here.name}/stdin"]
    assert [document.read() for document in inputs.documents] == ["one", "four", "three", "two"]
    with pytest.raises(DataError, match="- does not exist"):
        gather(["-"])
    assert names(gather(["d", "-"], io.BytesIO(b"four"))) == ["a.txt", "stdin"]


def test_names_that_cannot_be_decoded_differ(here: Path) -> None:
    for name, text in ((b"caf\xe9.txt", b"one"), (rb"caf\xe9.txt", b"two"), (b"a\nb.txt", b"three")):
        with open(os.path.join(os.fsencode(here), name), "wb") as file:
            file.write(text)
    assert sorted(names(distinct(gather(["."])))) == ["a\nb.txt", "caf\\xe9.txt", f"{here.name}/caf\\xe9.txt"]


def test_python_is_warned_of_what_cannot_be_read(here: Path) -> None:
    written(d__a_txt="one", d__b_txt="one", d___hidden="two")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = given_inputs("d", None)
    assert skipped(inputs) == {".hidden": "is hidden", "b.txt": "has the same text as a.txt"}
    written(**{f"d__{name}_bin": b"\0" for name in "vwxyz"})
    with pytest.warns(UserWarning, match=r"^not folded: v\.bin is binary.* and 2 more; the attribute skipped lists"):
        given_inputs("d", None)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("one line\n", "one line\n"),
        ("a few words", "a few words"),
        ("Ada was born in Velm.", "Ada was born in Velm."),
        ("see chapter 2.1", "see chapter 2.1"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_a_string_of_words_is_a_text(here: Path, source: str, text: str) -> None:
    (document,) = given_inputs(source, None).documents
    assert (document.source, document.text) == ("text", text)


def test_a_string_that_names_a_file_is_a_path(here: Path) -> None:
    written(**{"a b_txt": "words", "two words": "more words"})
    assert names(given_inputs("a b.txt", None)) == ["a b.txt"]
    assert names(given_inputs("two words", None)) == ["two words"]
    Path("empty").mkdir()
    cases: list[tuple[str | Sequence[str | Path] | Path, str]] = [
        ("missing", "missing does not exist"),
        ("my report.docx", r"my report\.docx does not exist"),
        ("a\0b", "does not exist"),
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ([], "no documents"),
        (here / "empty", "empty holds no file that can be read, it is empty"),
    ]
    for source, message in cases:
        with pytest.raises(DataError, match=message):
            given_inputs(source, None)


def test_a_memory_file_is_known_by_name_or_content(here: Path) -> None:
    written(memory=b"\x20\0\0\0\0\0\0\0{", text="Velm", empty=b"")
    assert [is_memory(Path(name)) for name in ("memory", "a.fold", "A.FOLD")] == [True, True, True]
    assert [is_memory(Path(name)) for name in ("text", "empty", "missing", ".", "a\0b", "/dev/null")] == [False] * 6
