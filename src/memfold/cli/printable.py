"""Makes the text of documents, names and replies safe to print: it can neither control a terminal nor fail to print."""

from __future__ import annotations

import codecs
import io
import re
import sys

# C0 controls except line breaks and tabs, DEL, C1 controls, line separators, bidi overrides and isolates, surrogates
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")


def printable(text: str) -> str:
    r"""Return a text with control characters, overrides of its direction and unpaired surrogates written as escapes.

    >>> print(printable("a\x1b[2Jb\u202e"))
    a\x1b[2Jb\u202e
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode-escape").decode(), text.replace("\r\n", "\n"))


def on_one_line(text: str) -> str:
    r"""Return a text with its line breaks and tabs written as escapes too, such as those in the names of files.

    >>> print(on_one_line("a\nb.txt"))
    a\nb.txt
    """
    return printable(text.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t"))


def escaped(json_text: str) -> str:
    """Return a JSON text of one line with the same characters written as JSON escapes."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json_text)


def escape_what_streams_cannot_encode() -> None:
    """Let the standard streams write characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def read_ascii_input_as_utf8() -> None:
    """Let standard input be read as UTF-8 where its encoding is ASCII, which is a part of UTF-8."""
    stream = sys.stdin
    if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
        stream.reconfigure(encoding="utf-8")
