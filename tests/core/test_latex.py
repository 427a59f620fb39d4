"""Plain text for LaTeX, as models write it into boxes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.latex import content, plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\text{Velm}", "Velm"),
        (r"\text{The \textbf{river {Sanu}}}", "The river Sanu"),
        (r"\mathrm{5\,km}", "5\u202fkm"),
        (r"1{,}234\,\%", "1,234\u202f%"),
        (r"\$5 \& \#2", "$5 & #2"),
        (r"90^\circ\text{C}", "90\u00b0C"),
        (r"90^{\circ}", "90\u00b0"),
        (r"\dfrac{\text{a}}{b}", "a/b"),
        (r"\left(3\right)", "(3)"),
        (r"\(x\)", "x"),
        (r"\{1,2\}", "{1,2}"),
        (r"\text{\{a\}}", "{a}"),
        (r"\sqrt{2} \leftarrow", r"\sqrt{2} \leftarrow"),  # not computed
        (r"\text{Velm", r"\text{Velm"),  # not closed
        ("{a} {b", "{a} {b"),  # no LaTeX
        ("C:\\temp\\new", "C:\\temp\\new"),
    ],
)
def test_commands_are_replaced_by_what_they_show(text: str, expected: str) -> None:
    assert plain(text) == content(text) == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("$5$", "5"),
        ("$$x$$", "x"),
        ("$5", "$5"),
        ("$5 and $6", "$5 and $6"),
        (r" $\text{Velm}$ ", "Velm"),
        (r"\text{}", ""),
    ],
)
def test_a_box_may_hold_a_formula(box: str, expected: str) -> None:
    assert content(box) == expected


def test_braces_in_braces_take_bounded_time() -> None:
    for depth in (3, 20_000):
        assert plain("{" * depth + "a" + "}" * depth + r"\%").endswith("%")


@given(st.text(st.characters(exclude_characters="\\{}$")))
def test_text_without_latex_is_unchanged(text: str) -> None:
    assert plain(text) == text
    assert content(text) == text.strip()
