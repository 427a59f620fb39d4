from __future__ import annotations

from memfold.core.types import Span
from memfold.tasks.datasets.layout import distinct, excerpts, in_order, lay_out


def test_places_point_at_the_sentences() -> None:
    text, places = lay_out([("Velm ", ["A town.", " ", " It is old. "]), ("", []), ("Ada", ["She wrote."])])
    assert text == "Velm\nA town. It is old.\n\n\n\nAda\nShe wrote."
    assert [excerpts(text, spans) for spans in places] == [("A town.", "", "It is old."), (), ("She wrote.",)]
    assert lay_out([]) == ("", [])


def test_spans_come_in_the_order_of_the_text_without_repeats() -> None:
    assert in_order([Span(5, 9), Span(1, 3), Span(5, 9), Span(4, 4)]) == (Span(1, 3), Span(5, 9))


def test_answers_are_kept_once_without_blanks() -> None:
    assert distinct([" a", "b", "a", " ", "A"]) == ("a", "b", "A")
