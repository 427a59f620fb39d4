"""Do the citations of an answer show where it came from?  Judged by overlap with the evidence of a sample.

Left out: how much was cited.  Citing a whole document always hits, so reports print the cited characters beside this.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.types import Citation, Span

FIRST = 3


def hits(citations: Sequence[Citation], evidence: Sequence[Span], first: int = FIRST) -> tuple[bool, bool]:
    """Whether the first citations touch one stretch of the evidence, and whether they touch every one."""
    touched = [any(_overlap(citation, span) for citation in citations[:first]) for span in evidence]
    return any(touched), bool(touched) and all(touched)


def _overlap(citation: Citation, span: Span) -> bool:
    return citation.start < span.end and span.start < citation.end
