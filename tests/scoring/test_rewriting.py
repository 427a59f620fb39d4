import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.scoring import rewriting
from memfold.scoring.rewriting import exact_strings, rouge, strings_of, token_accuracy

TEXT = "On 14 March 1733 KX-4071 cost 1,250 coins. In 1790 it had 7 doors and 27 bells. On May 2, 1801 no more."


def test_strings_are_codes_dates_and_numbers_of_two_digits() -> None:
    assert strings_of(TEXT) == ["14 March 1733", "KX-4071", "1,250", "1790", "27", "May 2, 1801"]
    assert strings_of("Done 2026-11-21, at 3.14. See X1 and A-1.") == ["2026-11-21", "3.14"]
    assert strings_of("no strings, not 5 nor 6") == []


def test_exact_strings_by_hand() -> None:
    assert exact_strings(TEXT, TEXT) == 1
    assert exact_strings(TEXT, "") == 0
    assert exact_strings(TEXT, "KX-4071, then 1790 and 28") == pytest.approx(2 / 6)
    assert exact_strings("none here", TEXT) is None


def test_exact_strings_keep_order_and_number() -> None:
    assert exact_strings("11 22 33", "33 11 22") == pytest.approx(2 / 3)
    assert exact_strings("11 11 22", "11 22") == pytest.approx(2 / 3)
    assert exact_strings("11 22", "11 11 11 22") == 1


@given(st.lists(st.integers(10, 15)), st.lists(st.integers(10, 15)))
def test_exact_strings_equal_a_plain_longest_common_subsequence(source: list[int], other: list[int]) -> None:
    def longest(first: list[int], second: list[int]) -> int:
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
        return table[-1][-1]

    fraction = exact_strings(" ".join(map(str, source)), " ".join(map(str, other)))
    assert fraction == (pytest.approx(longest(source, other) / len(source)) if source else None)


def test_token_accuracy_by_hand() -> None:
    assert token_accuracy([1, 2, 3, 4], [1, 2, 9, 4]) == 0.75
    assert token_accuracy([1, 2, 3, 4], [1, 2]) == 0.5
    assert token_accuracy([1, 2], [1, 2, 3, 4]) == 0.5
    assert token_accuracy([1, 2, 3], [2, 3]) == 0
    assert token_accuracy([], []) == 1


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_token_accuracy_is_symmetric_and_1_for_equal_sequences_only(first: list[int], second: list[int]) -> None:
    assert token_accuracy(first, second) == token_accuracy(second, first)
    assert (token_accuracy(first, second) == 1) == (first == second)


def test_rouge_by_hand() -> None:
    assert rouge("the cat sat", "the cat") == {"rouge1": pytest.approx(0.8), "rougeL": pytest.approx(0.8)}
    assert rouge("the cat sat", "sat cat the") == {"rouge1": 1.0, "rougeL": pytest.approx(1 / 3)}
    assert rouge("KX-4071", "kx 4071") == {"rouge1": 1.0, "rougeL": 1.0}
    assert rouge("cat", "") == {"rouge1": 0.0, "rougeL": 0.0}


def test_a_missing_rouge_library_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    rewriting._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ConfigError, match=r"pip install 'memfold\[train\]'"):
        rouge("a", "b")
