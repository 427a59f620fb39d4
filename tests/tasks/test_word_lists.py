import re
from collections import Counter

import pytest

from memfold.core.errors import ConfigError
from memfold.tasks import word_lists
from memfold.tasks.task import Encode, TaskOptions
from memfold.tasks.word_lists import common_words, frequent_words

OPTIONS = TaskOptions()


@pytest.mark.parametrize(("size", "times", "rare_times"), [(8192, 30, 3), (1200, 14, 1), (300, 3, 1)])
def test_common_words_are_those_of_a_recount(encode: Encode, size: int, times: int, rare_times: int) -> None:
    (sample,) = common_words(7, size, OPTIONS, encode)
    text = sample.document.read()
    items = re.findall(r"(\d+)\. ([a-z]+)", text)
    assert [int(number) for number, _ in items] == list(range(1, len(items) + 1))
    assert " ".join(f"{number}. {word}" for number, word in items) == text
    counted = Counter(word for _, word in items)
    ranked = counted.most_common()
    assert {word for word, _ in ranked[:10]} == set(sample.answers)
    assert {count for _, count in ranked[:10]} == {times}
    assert {count for _, count in ranked[10:-1]} == {rare_times}
    assert 10 * times <= len(items) / 2
    assert "10 words" in sample.question


@pytest.mark.parametrize("size", [300, 1200, 8192])
def test_frequent_words_are_those_of_a_recount(encode: Encode, size: int) -> None:
    (sample,) = frequent_words(7, size, OPTIONS, encode)
    counted = Counter(sample.document.read().split())
    ranked = counted.most_common()
    assert ranked[0][0] == "..."
    assert {word for word, _ in ranked[1:4]} == set(sample.answers)
    assert ranked[3][1] > ranked[4][1], "the third is more frequent than the next"
    first = ranked[0][1]
    assert all(abs(count - first / rank**2) <= 1 for rank, (_, count) in enumerate(ranked, 1))
    assert "3 coded words" in sample.question


def test_no_word_is_part_of_another(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_lists, "SYLLABLES", ("ba", "bar", "na"))
    monkeypatch.setattr(word_lists, "OPEN_SYLLABLES", ("ba", "na"))
    (sample,) = frequent_words(1, 1000, OPTIONS, encode)
    words = set(sample.document.read().split()) - {"..."}
    assert len(words) > 8
    assert not [(one, other) for one in words for other in words if one in other and one != other]


def test_a_seed_gives_one_list(encode: Encode) -> None:
    for task in (common_words, frequent_words):
        assert task(3, 600, OPTIONS, encode) == task(3, 600, OPTIONS, encode)
        assert task(3, 600, OPTIONS, encode)[0].answers != task(4, 600, OPTIONS, encode)[0].answers


def test_lists_that_have_no_right_answer_are_refused(encode: Encode) -> None:
    with pytest.raises(
        ConfigError, match="100 tokens have no room for 10 words that occur twice; use larger --lengths"
    ):
        common_words(1, 100, OPTIONS, encode)
    with pytest.raises(ConfigError, match="20 tokens have no room for 3 words that occur more often than others"):
        frequent_words(1, 20, OPTIONS, encode)
