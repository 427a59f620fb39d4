"""Checks whether the citations of an answer overlap the evidence of its sample.

How much is cited is not considered.  Citing a whole document always hits, so reports also print the number of cited
characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.types import Citation, Span

FIRST = 3


def hits(citations: Sequence[Citation], evidence: Sequence[Span], first: int = FIRST) -> tuple[bool, bool]:
    """Return whether the first citations overlap any span of the evidence, and whether they overlap every span."""
    overlaps = [any(_overlap(citation, span) for citation in citations[:first]) for span in evidence]
    return any(overlaps), bool(overlaps) and all(overlaps)


def _overlap(citation: Citation, span: Span) -> bool:
    return citation.start < span.end and span.start < citation.end
