"""Slots that begin where sentences begin: the borders, the slots, the memory file, and what reads them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from memfold.backbone.model import Backbone
from memfold.backbone.sentences import sentence_lengths
from memfold.core.document import Document
from memfold.core.errors import ConfigError, DataError
from memfold.core.types import Block, BlockRef, Call, Memory
from memfold.folding import append_file, fold_file
from memfold.memory import describe, open_memory, open_stored, save_memory
from memfold.session import Session
from memfold.systems.pooled import encoder
from memfold.systems.pooled.encoder import windows_of
from memfold.systems.pooled.groups import divide, group_windows, join_sentences
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.positions import offsets
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

TEXT = (
    'Ada Brisk was born in Velm in 1893. She wrote "The Long Ledger." Nobody read it!\nThe code (KX-41.7) is old. '
    "It was found near the river Tarn, under a stone that two men had put there in the winter of the great snow. Why?\n"
)
SENTENCES = [
    "Ada Brisk was born in Velm in 1893.",
    ' She wrote "The Long Ledger."',
    " Nobody read it!\n",
    "The code (KX-41.7) is old.",
    " It was found near the river Tarn, under a stone that two men had put there in the winter of the great snow.",
    " Why?\n",
]
AT_SENTENCES = PooledFold(ratio=8, groups="sentence", window=32, mask="bidirectional", chunk=4096)


def pieces(tokens: list[int], lengths: list[int], backbone: Backbone) -> list[str]:
    return [
        backbone.decode(tokens[end - length : end]) for end, length in zip(accumulate(lengths), lengths, strict=True)
    ]


@torch.no_grad()
def fold(settings: PooledFold, backbone: Backbone, *texts: str) -> list[Block]:
    documents = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    return list(Pooled(settings).compress(documents, backbone))


# The borders.


def test_sentences_of_a_text_by_hand(backbone: Backbone) -> None:
    tokens = backbone.encode(TEXT)
    found = pieces(tokens, sentence_lengths(tokens, backbone), backbone)
    assert "".join(found) == TEXT
    assert [text.strip() for text in found] == [text.strip() for text in SENTENCES]


def word_tokenizer(marker: str) -> PreTrainedTokenizerFast:
    """Splits at words and marks, as SentencePiece (▁) does: decoding drops the space at the beginning of a text."""
    words = ["a", "Who", "Yes", "No", ".", "?", "。", "…", "\n", '"', "3"]
    vocabulary = {word: index for index, word in enumerate([*words, *(marker + word for word in words), "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(marker, prepend_scheme="never"), pre_tokenizers.Split(".", "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(marker, prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["Yes", ".", "▁No", "."], [2, 2]),
        (["Yes", ".", "No", "."], [4]),  # no white space: an abbreviation or a number
        (["3", ".", "3", "▁No"], [4]),
        (["Who", "?", '"', "▁Yes"], [3, 1]),  # a closing quote belongs to the sentence
        (["Who", "?", '▁"', "Yes"], [2, 2]),  # an opening quote does not
        (["Yes", "\n", "\n", "No"], [3, 1]),
        (["Yes", "。", "No"], [2, 1]),
        (["Yes", "…", "▁No"], [2, 1]),
        (["\n", "\n"], [2]),
        ([".", "."], [2]),
        ([], []),
    ],
)
def test_borders_with_a_tokenizer_that_drops_spaces(backbone: Backbone, tokens: list[str], expected: list[int]) -> None:
    words = Backbone("words", backbone.model, word_tokenizer("▁"))
    ids = [int(index) for index in words.tokenizer.convert_tokens_to_ids(tokens)]
    assert sentence_lengths(ids, words) == expected


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([10, 10], [10, 10]),
        ([3, 4, 5], [7, 5]),  # the first takes the second in and is long enough
        ([3, 11], [3, 11]),  # both together would be too long
        ([3, 13], [3, 6, 7]),
        ([25], [8, 8, 9]),
        ([3, 25, 2], [3, 8, 8, 9, 2]),
        ([1] * 14, [6, 6, 2]),
        ([], []),
    ],
)
def test_groups_of_six_to_twelve_tokens_by_hand(sentences: list[int], expected: list[int]) -> None:
    assert join_sentences(sentences, 6, 12) == expected


@given(st.lists(st.integers(1, 90)), st.integers(1, 20), st.integers(0, 40))
def test_groups_keep_all_tokens_and_begin_with_sentences(sentences: list[int], shortest: int, more: int) -> None:
    longest = shortest + more
    groups = join_sentences(sentences, shortest, longest)
    assert sum(groups) == sum(sentences)
    assert all(0 < group <= longest for group in groups)
    borders = {0, *accumulate(groups)}
    starts = [start for start, length in zip(accumulate(sentences, initial=0), sentences, strict=False)]
    for start, length in zip(starts, sentences, strict=True):
        if length > longest:  # begins a group, and so does what follows it
            assert {start, start + length} <= borders
        elif length >= shortest:  # whole in its last group
            assert not any(start < border < start + length for border in borders)


@given(st.integers(1, 500), st.integers(1, 60))
def test_parts_are_few_and_about_equal(tokens: int, longest: int) -> None:
    parts = divide(tokens, longest)
    assert sum(parts) == tokens
    assert len(parts) == -(-tokens // longest)
    assert max(parts) - min(parts) <= 1


@given(st.lists(st.integers(1, 24)), st.integers(0, 64))
def test_windows_hold_whole_groups_in_order(groups: list[int], window: int) -> None:
    windows = group_windows(groups, window)
    assert [group for each in windows for group in each] == groups
    assert all(sum(each) <= max(window, each[0]) for each in windows)
    assert all(sum(each) + following[0] > window for each, following in pairwise(windows))


# The slots.


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 32])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_a_slot_is_the_mean_of_its_group_within_its_window(any_backbone: Backbone, window: int, mask: Any) -> None:
    settings = PooledFold(ratio=8, groups="sentence", window=window, mask=mask)
    (block,) = fold(settings, any_backbone, TEXT)
    expected, lengths = [], list[int]()
    for each in windows_of(any_backbone.encode(TEXT), any_backbone, settings):
        size = len(each.tokens)
        seen = torch.ones(1, 1, size, size, dtype=torch.bool)
        seen = seen if mask == "bidirectional" else seen.tril()
        states = any_backbone.body(torch.tensor([list(each.tokens)]), attention_mask=seen).last_hidden_state[0]
        expected += [any_backbone.heads[HEAD](part.mean(0)) for part in states.split([*each.groups])]
        lengths += each.groups
        assert window or len(each.groups) == 1
    assert block.slots is not None
    assert_close(block.slots, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert block.slot_tokens == tuple(lengths)
    assert max(lengths) <= 12


def test_documents_of_one_batch_do_not_change_each_other(any_backbone: Backbone) -> None:
    texts = ("Why?", TEXT * 3, "The code of the vault is KX-41.")
    together = fold(AT_SENTENCES, any_backbone, *texts)
    alone = [block for text in texts for block in fold(AT_SENTENCES, any_backbone, text)]
    for one, other in zip(together, alone, strict=True):
        assert one.slot_tokens == other.slot_tokens
        assert_close(one.slots, other.slots, atol=1e-5, rtol=1e-5)


def test_attention_pooling_ignores_the_padding_of_short_groups(backbone: Backbone) -> None:
    pooled = encoder._slots
    states = torch.randn(2, 5, 32)
    states[1, 2:] = torch.nan
    assert torch.isfinite(pooled(backbone, states.nan_to_num(9.0), [5, 2])).all()
    short = pooled(backbone, states.nan_to_num(9.0), [5, 2])
    assert_close(short[1], backbone.heads[HEAD](states[1, :2].mean(0)))


def test_strided_slots_stand_at_the_first_token_of_their_group(backbone: Backbone) -> None:
    settings = PooledFold(ratio=8, groups="sentence", window=32, positions="strided")
    blocks = fold(settings, backbone, TEXT)
    assert blocks[0].slot_tokens is not None
    starts = [0, *accumulate(blocks[0].slot_tokens)][:-1]
    assert list(offsets(blocks, settings, 0, "m")) == [starts]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": "sentences"}, "unknown groups 'sentences'; nearest: 'sentence'; known: fixed, sentence"),
        ({"longest": 20}, 'only with groups = "sentence"'),
        ({"groups": "sentence", "longest": 4}, "8 (the shortest group)"),
        ({"groups": "sentence", "shortest": 25}, "1 to 24"),
        ({"groups": "sentence", "shortest": -1}, "1 token or more"),
        ({"groups": "sentence", "wrapper": "slot", "positions": "strided"}, "span, none"),
    ],
)
def test_impossible_groups_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Pooled.of(settings)


# The memory file.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("keep_text", [True, False])
def test_a_memory_file_keeps_the_tokens_of_each_slot(
    backbone: Backbone, tmp_path: Path, dtype: str, keep_text: bool
) -> None:
    settings = PooledFold(ratio=8, groups="sentence", window=32, chunk=32)
    blocks = fold(settings, backbone, TEXT * 3)
    assert len(blocks) > 2
    memory = Memory("m", "pooled", Pooled(settings).settings, "f", ("a.txt",), blocks, ("0" * 64,))
    save_memory(memory, tmp_path / "a.fold", dtype=dtype, keep_text=keep_text)
    opened = open_memory(tmp_path / "a.fold")
    assert [block.slot_tokens for block in opened.blocks] == [block.slot_tokens for block in blocks]
    Pooled(settings).check_memory(opened)
    saved_again = tmp_path / "b.fold"
    save_memory(opened, saved_again, dtype="float32", keep_text=keep_text)
    assert [block.slot_tokens for block in open_memory(saved_again).blocks] == [block.slot_tokens for block in blocks]
    assert describe(tmp_path / "a.fold")["slots"] == sum(len(block.slot_tokens or ()) for block in blocks)


def test_appending_and_resuming_keep_the_tokens_of_each_slot(backbone: Backbone, tmp_path: Path) -> None:
    session = Session(Pooled(PooledFold(ratio=8, groups="sentence", window=32, chunk=32)), backbone)
    first, second = Document("a.txt", TEXT * 2), Document("b.txt", "Velm lies near the sea. " + TEXT)
    fold_file([first], tmp_path / "a.fold", session)
    append_file([second], open_stored(tmp_path / "a.fold"), session)
    fold_file([first, second], tmp_path / "both.fold", session)
    assert (tmp_path / "a.fold").read_bytes() == (tmp_path / "both.fold").read_bytes()

    def stop(block: Block) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold_file([first, second], tmp_path / "broken.fold", session, progress=stop)
    fold_file([first, second], tmp_path / "broken.fold", session)
    assert (tmp_path / "broken.fold").read_bytes() == (tmp_path / "both.fold").read_bytes()


def test_a_memory_whose_groups_do_not_add_up_is_refused(backbone: Backbone) -> None:
    system = Pooled(AT_SENTENCES)
    (block,) = fold(AT_SENTENCES, backbone, TEXT)
    for lengths in (None, (block.token_count,), (0, block.token_count)):
        broken = Block(0, 0, 0, block.token_count, 0, 9, block.slots, slot_tokens=lengths)
        with pytest.raises(DataError, match="fold it again"):
            system.check_memory(Memory("m", "pooled", {}, "", ("a",), [broken]))


def test_token_counts_for_some_blocks_only_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    (block,) = fold(AT_SENTENCES, backbone, TEXT)
    (fixed,) = fold(PooledFold(ratio=8), backbone, TEXT)
    memory = Memory("m", "pooled", {}, "f", ("a.txt", "b.txt"), [block, replace(fixed, source=1)], ("0" * 64,) * 2)
    with pytest.raises(DataError, match="all must have one, or none"):
        save_memory(memory, tmp_path / "a.fold")


# Reading.


def test_a_passage_is_the_sentence_behind_its_slot(backbone: Backbone) -> None:
    system = Pooled(AT_SENTENCES)
    blocks = fold(AT_SENTENCES, backbone, TEXT)
    memory = Memory("m", "pooled", {}, "", ("0.txt",), blocks)
    call = Call("answer", (BlockRef("m", 0),))
    spans = [system.passage(memory, call, slot, backbone).span for slot in range(blocks[0].slot_count)]
    assert "".join(TEXT[span.start : span.end] for span in spans) == TEXT
    tokens = backbone.encode(TEXT)
    first = pieces(tokens, list(blocks[0].slot_tokens or ()), backbone)[0]
    assert TEXT[spans[0].start : spans[0].end] == first


def test_the_effective_ratio_counts_the_slots_that_there_are() -> None:
    assert Pooled(AT_SENTENCES).effective_ratio(96, 14) == 6
    assert Pooled(AT_SENTENCES).effective_ratio(96) == pytest.approx(96 / 14)
