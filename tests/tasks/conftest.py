"""A substitute for a tokenizer: about four characters per token, without files, with the same ids in every process."""

from __future__ import annotations

import re
import zlib

import pytest

from memfold.tasks.task import Encode

PATTERN = re.compile(r"\n| ?\w{1,4}| ?[^\w\s]")


def stand_in(text: str) -> list[int]:
    return [zlib.crc32(token.encode()) for token in PATTERN.findall(text)]


@pytest.fixture(scope="session")
def encode() -> Encode:
    return stand_in
