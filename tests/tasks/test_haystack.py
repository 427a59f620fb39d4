from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.tasks.haystack import (
    as_many,
    borders_of,
    filler_sentences,
    gather,
    pieces,
    plant,
    repeated_text,
    text_sentences,
)
from memfold.tasks.needle import needle
from memfold.tasks.task import Encode, TaskOptions

TEXT = 'One came. "Two?" he said (it was 3.14). Four\n\nno full stop here\n\n  Five! Six'


def test_sentences_cover_the_text_and_repeat() -> None:
    *sentences, repeated = islice(text_sentences(TEXT), 8)
    assert "".join(sentences) == "\n" + TEXT
    first, *others = (sentence.strip() for sentence in sentences)
    assert first == "One came."
    assert others == ['"Two?"', "he said (it was 3.14).", "Four", "no full stop here", "Five!", "Six"]
    assert repeated == "\nOne came."
    assert list(text_sentences("  \n ")) == []


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(30, 600), depths=st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), max_size=3), filler=st.booleans()
)
def test_planted_sentences_are_at_their_depths(encode: Encode, size: int, depths: list[float], filler: bool) -> None:
    sentences = filler_sentences(Random(size)) if filler else text_sentences(TEXT)
    chosen = gather(sentences, size, encode)
    assert 0.5 * size <= len(encode("".join(chosen))) <= size
    planted = [(depth, f"Needle {number} is here.") for number, depth in enumerate(depths)]
    page = plant(chosen, planted)
    text, spans = page.text, page.spans
    assert [text[span.start : span.end] for span in spans] == [sentence for _, sentence in planted]
    assert text == text.lstrip()
    bare = text
    for _, sentence in planted:
        bare = bare.replace(sentence, "", 1)
    assert bare.split() == "".join(chosen).split()
    total, longest, spaces = len("".join(chosen)), max(map(len, chosen)), 2 * len(planted) + 2
    for (depth, _), span in zip(planted, spans, strict=True):
        before = text[: span.start]
        for _, sentence in planted:
            before = before.replace(sentence, "")
        assert depth * total - spaces <= len(before) <= depth * total + longest + spaces


def test_depths_0_and_1_are_the_ends_of_the_text() -> None:
    text = plant([" One.", " Two.", " Three."], [(1.0, "Last."), (0.0, "First."), (0.0, "Second.")]).text
    assert text == "First. Second. One. Two. Three. Last."


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 40), depths=st.lists(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=4)
)
def test_pieces_cover_the_text_and_are_the_same_without_a_planted_sentence(count: int, depths: list[float]) -> None:
    sentences = [f" Sentence {number}." for number in range(count)]
    cuts = borders_of(sentences, depths)
    texts = [pieces(plant(sentences, [(depth, "Needle.")]), cuts) for depth in depths]
    bare = pieces(plant(sentences, []), cuts)
    assert "".join(bare) == "".join(sentences).lstrip()
    for depth, parts in zip(depths, texts, strict=True):
        assert "".join(parts) == plant(sentences, [(depth, "Needle.")]).text
        (changed,) = [part for part, bare_part in zip(parts, bare, strict=True) if part != bare_part]
        assert "Needle." in changed
        assert changed.count("Sentence") >= min(2, count)


def test_a_size_without_room_is_refused(encode: Encode) -> None:
    with pytest.raises(ConfigError, match="no sentence has room in 1 tokens"):
        gather(text_sentences(TEXT), 1, encode)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(8, 20_000), longest=st.integers(1, 60))
def test_as_many_items_as_fit(encode: Encode, size: int, longest: int) -> None:
    def write(count: int) -> str:
        return " ".join("item " * (1 + number % longest) for number in range(count))

    count = as_many(size, write, encode)
    tokens = len(encode(write(count)))
    assert tokens <= size
    assert tokens >= 0.98 * size or len(encode(write(count + 1))) > size


def test_no_room_for_one_item(encode: Encode) -> None:
    with pytest.raises(ConfigError, match="nothing has room in 3 tokens of text; use larger --lengths"):
        as_many(3, lambda count: "item " * 4 * count, encode)


def test_a_text_that_repeats_itself_has_few_sentences() -> None:
    repeated = islice(text_sentences(repeated_text(Random(3))), 50)
    assert len({sentence.strip() for sentence in repeated}) == 5


def test_training_draws_no_uuid(encode: Encode) -> None:
    kinds = {needle(seed, 200, TaskOptions(level=1), encode)[0].kind for seed in range(30)}
    assert kinds == {"number", "word", "code"}
    (sample,) = needle(1, 200, TaskOptions(level=1, kinds=("uuid",)), encode)
    assert len(sample.answers[0]) == 36
