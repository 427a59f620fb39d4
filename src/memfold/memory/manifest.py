"""The manifest and the header of a memory file.

A memory file is a safetensors file.  Its header is a function of `Manifest` and `Contents` alone, so a reader rebuilds
the header from the parsed values and compares bytes, which finds every change.  The block table is an integer tensor
with seven columns.  `slot_tokens`, the number of tokens of each slot, is stored only if the system records it.  The
system defines the meaning of the values of a slot.  The data itself is in `writer` and `reader`.  Big-endian machines
are not supported.

There are two versions of the format.  A file with slots is of version 2: `checksums` has, for each block, the CRC-32 of
the bytes of its slots and then of its scales, so that a block can be checked alone.  A file of text has no slots and is
of version 1, and so are files with slots that were written before there were checksums; both versions are read.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from memfold.core.errors import DataError, unknown

FORMAT = "memfold-memory"
VERSIONS = ("1", "2")  # without and with checksums
CHECKSUMS = "checksums"
COLUMNS = ("source", "token_start", "token_end", "char_start", "char_end", "slot_count", "text_bytes")
STORED_NAMES = {"chat_template": "frame"}  # settings that the file format calls otherwise
# properties of the model that a memory records in addition to the settings of the system, for `memfold inspect`
DESCRIPTIVE = ("model", "hidden_size", "kv_bytes_per_token", "slot_parts")
PARTS = DESCRIPTIVE[-1]
LARGEST = 1 << 48  # of all counts and places, so that sums and sizes of tensors stay within 64 bits
# dtype of the slots -> (its name in safetensors, bytes for each value)
SLOT_TYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "int8": ("I8", 1)}


@dataclass(frozen=True)
class Manifest:
    """What is known about a memory before its first block.

    `sources` and `sha256` (of the UTF-8 text, in hex) have one entry for each document.  `settings` are those of the
    system.

    Raises:
        DataError: for a dtype, hash or setting that a memory file cannot hold.
    """

    system: str
    settings: Mapping[str, Any]
    fingerprint: str
    sources: tuple[str, ...]
    sha256: tuple[str, ...]
    dtype: str = "bfloat16"
    keep_text: bool = True

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if not self.sources or len(self.sha256) != len(self.sources):
            raise DataError(
                f"{len(self.sha256)} hashes for {len(self.sources)} documents; give one for each, at least one"
            )
        for value in self.sha256:
            if len(value) != 64 or not set(value) <= set(string.hexdigits.lower()):
                raise DataError(f"document hash {value!r} is not possible; allowed: 64 lower-case hex digits (SHA-256)")
        try:
            settings = json.loads(canonical(dict(self.settings)))
        except (TypeError, ValueError) as error:
            raise DataError(f"settings cannot be stored in a memory file: {error}; use JSON values") from None
        object.__setattr__(self, "settings", settings)  # as a reader will find them: tuples are lists

    @property
    def slot_parts(self) -> int:
        """The number of equal parts of a slot that each have a scale in int8."""
        return int(self.settings.get(PARTS, 1))


@dataclass(frozen=True)
class Contents:
    """Totals over all blocks.  `tensors` holds the SHA-256 of the bytes of each stored tensor."""

    blocks: int
    tokens: int
    characters: int
    slots: int
    hidden: int
    text_bytes: int
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: its `dtype` as named by safetensors, and its byte range, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_dtype(dtype: str) -> None:
    """Refuse a data type that a memory file cannot store slots in.

    Raises:
        DataError: with those that it can.
    """
    if dtype not in SLOT_TYPES:
        raise DataError(str(unknown("memory dtype", dtype, SLOT_TYPES)))


def tensors(manifest: Manifest, contents: Contents) -> list[Tensor]:
    """Return the tensors of a file in the order of their bytes: the widest values first, so that all are aligned."""
    slot_type, width = SLOT_TYPES[manifest.dtype]
    shapes: list[tuple[str, str, int, tuple[int, ...]]] = [("table", "I64", 8, (contents.blocks, len(COLUMNS)))]
    if "slot_tokens" in contents.tensors:
        shapes.append(("slot_tokens", "I32", 4, (contents.slots,)))
    if CHECKSUMS in contents.tensors:
        shapes.append((CHECKSUMS, "U32", 4, (contents.blocks,)))
    if contents.hidden and manifest.dtype == "int8":
        parts = manifest.slot_parts
        shapes.append(("scales", "F32", 4, (contents.slots, parts) if parts > 1 else (contents.slots,)))
    if contents.hidden:
        shapes.append(("slots", slot_type, width, (contents.slots, contents.hidden)))
    if manifest.keep_text:
        shapes.append(("text", "U8", 1, (contents.text_bytes,)))
    placed, start = [], 0
    for name, dtype, size, shape in shapes:
        for length in shape:
            size *= length
        placed.append(Tensor(name, dtype, shape, start, start + size))
        start += size
    return placed


def stored(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest in the form that a file stores."""
    settings = {STORED_NAMES.get(name, name): value for name, value in manifest.settings.items()}
    return asdict(manifest) | {"settings": settings}


def encode(manifest: Manifest, contents: Contents) -> bytes:
    """Return the beginning of a file: eight bytes of length, then the JSON header, padded to a multiple of 8 bytes.

    >>> one = Manifest("full", {}, "", ("a.txt",), ("0" * 64,))
    >>> decode(encode(one, Contents(1, 9, 30, 0, 0, 25))[8:])[0] == one
    True
    """
    text = canonical(stored(manifest) | asdict(contents))
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSIONS[CHECKSUMS in contents.tensors],
            "manifest": text,
            "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    }
    for tensor in tensors(manifest, contents):
        offsets = [tensor.start, tensor.end]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    body = canonical(header).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def decode(body: bytes) -> tuple[Manifest, Contents]:
    """Read a JSON header (without its length); the inverse of `encode`.

    Raises:
        DataError: if the header is not that of a memory file, is of another format version, or was altered; the message
            does not have the path.
    """
    try:
        metadata = json.loads(body)["__metadata__"]
        found, version = metadata["format"], metadata["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        what = "is damaged: its header cannot be read" if FORMAT.encode() in body else "is not a memory file"
        raise DataError(f"{what}; give a file that memfold fold wrote") from None
    if found != FORMAT:
        raise DataError(
            f"is not a memory file: its format is {found!r}, not {FORMAT!r}; give a file that memfold fold wrote"
        )
    if version not in VERSIONS:
        ours = " and ".join(map(repr, VERSIONS))
        raise DataError(
            f"has format version {version!r}, but this version of memfold reads {ours}; fold the document again"
        )
    try:
        text = metadata["manifest"]
        if hashlib.sha256(text.encode()).hexdigest() != metadata["manifest_sha256"]:
            raise ValueError
        values = json.loads(text)
        contents = Contents(**{name: values.pop(name) for name in Contents.__dataclass_fields__})
        values["sources"], values["sha256"] = tuple(values["sources"]), tuple(values["sha256"])
        names = {name: key for key, name in STORED_NAMES.items()}
        values["settings"] = {names.get(name, name): value for name, value in values["settings"].items()}
        manifest = Manifest(**values)
        same = _sound(manifest, contents) and encode(manifest, contents)[8:] == body
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError):
        same = False
    if not same:
        raise DataError("is damaged: its header was altered after it was written; fold the document again")
    return manifest, contents


def _sound(manifest: Manifest, contents: Contents) -> bool:
    """Return whether the types are right and the numbers possible, which only a forged digest can hide."""
    counts = [value for name, value in vars(contents).items() if name != "tensors"]
    if not isinstance(contents.tensors, dict) or not isinstance(manifest.keep_text, bool):
        return False
    texts = (manifest.system, manifest.fingerprint, *manifest.sources, *contents.tensors.values())
    return (
        _describes(manifest.settings)
        and all(type(value) is int and 0 <= value < LARGEST for value in counts)
        and all(isinstance(text, str) for text in texts)
        and set(contents.tensors) == {tensor.name for tensor in tensors(manifest, contents)}
        and contents.blocks > 0
        and (contents.hidden > 0 or (contents.slots == 0 and CHECKSUMS not in contents.tensors))
        and manifest.slot_parts > 0
        and contents.hidden % manifest.slot_parts == 0
        and (manifest.keep_text or contents.text_bytes == 0)
    )


def _describes(settings: Mapping[str, Any]) -> bool:
    """Return whether the properties of the model, which no system checks, can be shown: a name, and two counts."""
    model, *counts = (settings.get(name) for name in DESCRIPTIVE)
    named = model is None or isinstance(model, str)
    return named and all(count is None or (type(count) is int and 0 <= count < LARGEST) for count in counts)


def canonical(value: Any) -> str:
    """Return JSON without spaces, with sorted keys, in ASCII, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
