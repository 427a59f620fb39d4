from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.tasks.haystack import borders_of, filler_sentences, gather, pieces, plant, text_sentences
from memfold.tasks.needle import needle
from memfold.tasks.task import Encode, TaskOptions

TEXT = 'One came. "Two?" he said (it was 3.14). Four\n\nno full stop here\n\n  Five! Six'


def test_sentences_of_a_text_leave_nothing_out_and_begin_again() -> None:
    found = list(islice(text_sentences(TEXT), 8))
    assert "".join(found[:7]) == "\n" + TEXT
    assert [one.strip() for one in found[:7]] == [
        "One came.", '"Two?"', "he said (it was 3.14).", "Four", "no full stop here", "Five!", "Six",
    ]  # fmt: skip
    assert found[7] == "\nOne came."
    assert list(text_sentences("  \n ")) == []


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(30, 600), depths=st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), max_size=3), filler=st.booleans()
)
def test_what_is_planted_stands_at_its_depth(encode: Encode, size: int, depths: list[float], filler: bool) -> None:
    sentences = filler_sentences(Random(size)) if filler else text_sentences(TEXT)
    chosen = gather(sentences, size, encode)
    assert 0.5 * size <= len(encode("".join(chosen))) <= size
    planted = [(depth, f"Needle {number} is here.") for number, depth in enumerate(depths)]
    whole = plant(chosen, planted)
    text, spans = whole.text, whole.spans
    assert [text[span.start : span.end] for span in spans] == [needle for _, needle in planted]
    assert text == text.lstrip()
    bare = text
    for _, one in planted:
        bare = bare.replace(one, "", 1)
    assert bare.split() == "".join(chosen).split()
    total, longest, spaces = len("".join(chosen)), max(map(len, chosen)), 2 * len(planted) + 2
    for (depth, _), span in zip(planted, spans, strict=True):
        before = text[: span.start]
        for _, other in planted:
            before = before.replace(other, "")
        assert depth * total - spaces <= len(before) <= depth * total + longest + spaces


def test_the_ends_are_the_ends() -> None:
    text = plant([" One.", " Two.", " Three."], [(1.0, "Last."), (0.0, "First."), (0.0, "Second.")]).text
    assert text == "First. Second. One. Two. Three. Last."


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 40), depths=st.lists(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=4)
)
def test_pieces_are_the_text_and_the_same_where_nothing_was_planted(count: int, depths: list[float]) -> None:
    sentences = [f" Sentence {number}." for number in range(count)]
    cuts = borders_of(sentences, depths)
    texts = [pieces(plant(sentences, [(depth, "Needle.")]), cuts) for depth in depths]
    bare = pieces(plant(sentences, []), cuts)
    assert "".join(bare) == "".join(sentences).lstrip()
    for depth, parts in zip(depths, texts, strict=True):
        assert "".join(parts) == plant(sentences, [(depth, "Needle.")]).text
        changed = [one for one, other in zip(parts, bare, strict=True) if one != other]
        assert len(changed) == 1
        assert "Needle." in changed[0]
        assert changed[0].count("Sentence") >= min(2, count)


def test_a_size_without_room_is_refused(encode: Encode) -> None:
    with pytest.raises(ConfigError, match="no sentence has room in 1 tokens"):
        gather(text_sentences(TEXT), 1, encode)


def test_training_draws_no_uuid(encode: Encode) -> None:
    kinds = {needle(seed, 200, TaskOptions(level=1), encode)[0].kind for seed in range(30)}
    assert kinds == {"number", "word", "code"}
    (sample,) = needle(1, 200, TaskOptions(level=1, kinds=("uuid",)), encode)
    assert len(sample.answers[0]) == 36
