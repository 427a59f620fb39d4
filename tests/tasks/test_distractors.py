import pytest

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.distractors import Distractors
from memfold.tasks.task import Encode


def sample(number: int) -> Sample:
    """Two paragraphs; the second has the same title in all samples."""
    text = f"Town {number}\nIts river is river {number}. It is old.\n\nThe sea\nAs told by {number}."
    support = (f"Its river is river {number}.",)
    return Sample(
        "d", Document(str(number), text=text), f"Which river {number}?", (f"river {number}",), support=support
    )


def test_own_paragraphs_stay_in_order_among_those_of_others(encode: Encode) -> None:
    samples = [sample(number) for number in range(40)]
    made = list(Distractors(samples, encode).lengthened(200, 0))
    assert [one.question for one in made] == [one.question for one in samples]
    for one, before in zip(made, samples, strict=True):
        text, own = one.document.read(), before.document.read().split("\n\n")
        assert 150 <= len(encode(text)) <= 200
        paragraphs = text.split("\n\n")
        assert [part for part in paragraphs if part in own] == own
        titles = [part.split("\n")[0] for part in paragraphs]
        assert len(set(titles)) == len(titles)  # no sea but its own
        (span,) = one.evidence
        assert text[span.start : span.end] == before.support[0]
    first = {one.document.read().index("Town 1\n") for one in made[1:2]}
    assert first != {0} or made[2].document.read().index("Town 2\n") != 0  # places are drawn
    assert made == list(Distractors(samples, encode).lengthened(200, 0))
    assert made != list(Distractors(samples, encode).lengthened(200, 1))


def test_longer_questions_are_left_out_and_short_pools_refused(encode: Encode) -> None:
    long = Sample("d", Document("long", text="Word. " * 300), "Which?", ("x",))
    pool = Distractors([long, *(sample(number) for number in range(40))], encode)
    assert next(iter(pool.lengthened(200, 0))).question == "Which river 0?"
    with pytest.raises(DataError, match=r"the paragraphs of d fill \d+ of 2000 tokens; give more files, or smaller"):
        next(iter(Distractors([sample(1), sample(2)], encode).lengthened(2000, 0)))
