from memfold.core.types import Citation, Span
from memfold.scoring.citations import hits


def cite(*spans: tuple[int, int]) -> list[Citation]:
    return [Citation("d", start, end) for start, end in spans]


def test_hits_by_hand() -> None:
    evidence = [Span(10, 20), Span(40, 50)]
    assert hits(cite((0, 11)), evidence) == (True, False)
    assert hits(cite((0, 11), (49, 60)), evidence) == (True, True)
    assert hits(cite((20, 40)), evidence) == (False, False)  # neighbours do not overlap
    assert hits(cite((0, 100)), evidence) == (True, True)
    assert hits([], evidence) == (False, False)
    assert hits(cite((0, 5)), []) == (False, False)


def test_only_the_first_three_count() -> None:
    misses = [(100, 101), (101, 102), (102, 103)]
    assert hits(cite(*misses, (10, 20)), [Span(10, 20)]) == (False, False)
    assert hits(cite(*misses[:2], (10, 20)), [Span(10, 20)]) == (True, True)
