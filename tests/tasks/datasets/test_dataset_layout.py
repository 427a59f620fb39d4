from __future__ import annotations

from memfold.core.types import Span
from memfold.tasks.datasets.layout import distinct, excerpts, in_order, lay_out


def test_spans_cover_the_sentences() -> None:
    text, spans = lay_out([("Velm ", ["A town.", " ", " It is old. "]), ("", []), ("Ada", ["She wrote."])])
    assert text == "Velm\nA town. It is old.\n\n\n\nAda\nShe wrote."
    sentences = [excerpts(text, paragraph) for paragraph in spans]
    assert sentences == [("A town.", "", "It is old."), (), ("She wrote.",)]
    assert lay_out([]) == ("", [])


def test_spans_are_sorted_without_duplicates() -> None:
    assert in_order([Span(5, 9), Span(1, 3), Span(5, 9), Span(4, 4)]) == (Span(1, 3), Span(5, 9))


def test_answers_are_stripped_without_duplicates_and_blanks() -> None:
    assert distinct([" a", "b", "a", " ", "A"]) == ("a", "b", "A")
