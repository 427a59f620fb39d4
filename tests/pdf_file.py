"""PDF files for tests, written by hand: texts at places of pages, encrypted on request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 612, 792
FONTS = ("Helvetica", "Courier", "Helvetica-Bold")
PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
IDENTITY = b"0123456789abcdef"
ALL_RIGHTS = (-4 & 0xFFFFFFFF).to_bytes(4, "little")


@dataclass(frozen=True)
class Placed:
    """A text at a place, in points from the lower left corner of the page."""

    x: float
    y: float
    text: str
    size: float = 12.0
    font: str = "Helvetica"


def pdf_file(pages: Sequence[Sequence[Placed]], password: str | None = None) -> bytes:
    """The bytes of a PDF; with a password, even an empty one, it is encrypted."""
    fonts = " ".join(f"/F{number} {3 + number} 0 R" for number in range(len(FONTS)))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    objects += [f"<</Type/Font/Subtype/Type1/BaseFont/{font}>>".encode() for font in FONTS]
    places = []
    for texts in pages:
        drawn = " ".join(_drawn(text) for text in texts).encode("cp1252") or b"0 0 m 9 9 l S"
        content = len(objects) + 2
        places.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {WIDTH} {HEIGHT}]/Contents {content} 0 R"
            f"/Resources<</Font<<{fonts}>>>>>>".encode()
        )
        if password is not None:
            drawn = _rc4(_object_key(password, content), drawn)
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn))
    objects[1] = f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(places)}]>>".encode()
    trailer = b""
    if password is not None:
        objects.append(b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % _owner_and_user(password))
        trailer = b"/Encrypt %d 0 R/ID[<%s><%s>]" % (len(objects), IDENTITY.hex().encode(), IDENTITY.hex().encode())
    return _whole(objects, trailer)


def _drawn(text: Placed) -> str:
    escaped = text.text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return f"BT /F{FONTS.index(text.font)} {text.size} Tf 1 0 0 1 {text.x} {text.y} Tm ({escaped}) Tj ET"


def _whole(objects: Sequence[bytes], trailer: bytes) -> bytes:
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    tail = b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R%s>>\n" % (size, table, size, trailer)
    return data + tail + b"startxref\n%d\n%%%%EOF\n" % len(data)


def _padded(password: str) -> bytes:
    return (password.encode("latin-1") + PADDING)[:32]


def _owner(password: str) -> bytes:
    return _rc4(hashlib.md5(_padded("owner")).digest()[:5], _padded(password))


def _key(password: str) -> bytes:
    return hashlib.md5(_padded(password) + _owner(password) + ALL_RIGHTS + IDENTITY).digest()[:5]


def _object_key(password: str, number: int) -> bytes:
    return hashlib.md5(_key(password) + number.to_bytes(3, "little") + b"\0\0").digest()[:10]


def _owner_and_user(password: str) -> tuple[bytes, bytes]:
    return _owner(password).hex().encode(), _rc4(_key(password), PADDING).hex().encode()


def _rc4(key: bytes, data: bytes) -> bytes:
    """Encrypt with RC4, which PDF used before AES."""

    def stream() -> Iterator[int]:
        state, j = list(range(256)), 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) % 256
            state[i], state[j] = state[j], state[i]
        i = j = 0
        while True:
            i = (i + 1) % 256
            j = (j + state[i]) % 256
            state[i], state[j] = state[j], state[i]
            yield state[(state[i] + state[j]) % 256]

    return bytes(byte ^ mask for byte, mask in zip(data, stream(), strict=False))
