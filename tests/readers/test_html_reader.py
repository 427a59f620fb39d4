from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memfold.core.errors import DataError
from memfold.readers import html
from memfold.readers.files import open_document

PAGE = """<?xml version="1.0"?><!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Velm &amp; Sanu</title><style>p { color: red }</style>
<script>var hidden = "<p>not text</p>";</script></head>
<body><!-- a comment --><h2>The <em>river</em></h2>
<p>It is 20&nbsp;km<br>long &mdash; <a href="x.html">caf&eacute;</a>_s and <b>bo</b>ats * 2.</p>
<ul><li>one</li><li>two</li></ul>
<table><tr><th>Town</th><th>Mayor</th></tr><tr><td>Velm</td><td>Ada <i>Lorn</i></td></tr></table>
<pre>a  b
 c</pre><noscript>Switch on scripts.</noscript></body></html>"""


def read(tmp_path: Path, data: str | bytes, name: str = "page.html") -> str:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return open_document(path).read()


def test_a_page_becomes_its_text(tmp_path: Path) -> None:
    text = read(tmp_path, PAGE)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert lines[:4] == ["Velm & Sanu", "## The river", "It is 20 km", "long \u2014 caf\u00e9_s and boats * 2."]
    assert [line for line in lines if line.startswith("-")] == ["- one", "- two"]
    assert "| Town | Mayor |" in lines
    assert "| Velm | Ada Lorn |" in lines
    assert "a  b\n c" in text
    assert "\n\n\n" not in text
    assert " \n" not in text
    for removed in ("hidden", "color", "comment", "scripts", "xml", "html", "x.html"):
        assert removed not in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("<p>caf\u00e9", "caf\u00e9\n"),
        (b"\xef\xbb\xbf<p>caf\xc3\xa9</p>", "caf\u00e9\n"),
        ("\ufeff<p>caf\u00e9</p>".encode("utf-16-le"), "caf\u00e9\n"),
        (b'<meta charset="iso-8859-1"><p>caf\xe9 \x96 5 \x80', "caf\u00e9 \u2013 5 \u20ac\n"),
        ('<meta charset="shift_jis"><p>\u4e16'.encode("shift_jis"), "\u4e16\n"),
        ('<meta charset="utf-16"><p>caf\u00e9', "caf\u00e9\n"),
        ("<p>&#0;a&#xd800;b&lt;p&gt;", "\ufffda\ufffdb<p>\n"),
    ],
)
def test_the_encoding_is_the_declared_one_as_browsers_read_it(tmp_path: Path, data: str | bytes, expected: str) -> None:
    assert read(tmp_path, data, "a.htm") == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Just a line of text, 3 < 4.", "is not HTML: it has no HTML element; if it is plain text, rename it to .txt"),
        ("<rss><item>News</item></rss>", "is not HTML"),
        ("", "is not HTML"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not HTML but binary: byte 0x00 at offset 8"),
        ("<html><script>write('text')</script><body> <p>&nbsp;</p></body></html>", "has no text outside its scripts"),
        (b"<p>caf\xe9</p>", "is not utf-8: byte 0xe9 at offset 6; declare its encoding in <meta charset=...>"),
        ('<meta charset="martian"><p>a', "declares the unknown encoding 'martian'"),
        ("<div>" * 30_000 + "deep", "nests its elements too deeply"),
    ],
)
def test_a_file_that_is_not_a_page_is_a_one_line_error(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, data)
    assert str(caught.value).startswith(f"{tmp_path / 'page.html'} {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["markdownify", "bs4", "trafilatura"])
def test_without_a_package_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataError, match=rf"page\.html is HTML, which needs {package}; pip install 'memfold\[documents\]'"
    ):
        read(tmp_path, PAGE)


def test_a_huge_page_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "LARGEST", 1000)
    assert read(tmp_path, "<p>a" + "b" * 996) == "a" + "b" * 996 + "\n"
    with pytest.raises(DataError, match=r"page\.html has more than 1,000 bytes of HTML; save it as plain text"):
        read(tmp_path, "<p>a" + "b" * 997)
