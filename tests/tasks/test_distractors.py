import pytest

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample
from memfold.tasks.distractors import Distractors
from memfold.tasks.task import Encode


def sample(number: int) -> Sample:
    """A sample of two paragraphs; the second has the same title in all samples."""
    text = f"Town {number}\nIts river is river {number}. It is old.\n\nThe sea\nAs told by {number}."
    support = (f"Its river is river {number}.",)
    document = Document(str(number), text=text)
    return Sample("d", document, f"Which river {number}?", (f"river {number}",), support=support)


def test_the_original_paragraphs_stay_in_order_among_distractors(encode: Encode) -> None:
    samples = [sample(number) for number in range(40)]
    longer = list(Distractors(samples, encode).lengthened(200, 0))
    assert [lengthened.question for lengthened in longer] == [original.question for original in samples]
    for lengthened, original in zip(longer, samples, strict=True):
        text, original_paragraphs = lengthened.document.read(), original.document.read().split("\n\n")
        assert 150 <= len(encode(text)) <= 200
        paragraphs = text.split("\n\n")
        assert [part for part in paragraphs if part in original_paragraphs] == original_paragraphs
        titles = [part.split("\n")[0] for part in paragraphs]
        assert len(set(titles)) == len(titles)
        (span,) = lengthened.evidence
        assert text[span.start : span.end] == original.support[0]
    positions = [longer[number].document.read().index(f"Town {number}\n") for number in (1, 2)]
    assert positions != [0, 0]  # they are random
    assert longer == list(Distractors(samples, encode).lengthened(200, 0))
    assert longer != list(Distractors(samples, encode).lengthened(200, 1))


def test_longer_samples_are_skipped_and_small_pools_are_refused(encode: Encode) -> None:
    long = Sample("d", Document("long", text="Word. " * 300), "Which?", ("x",))
    pool = Distractors([long, *(sample(number) for number in range(40))], encode)
    assert next(iter(pool.lengthened(200, 0))).question == "Which river 0?"
    with pytest.raises(DataError, match=r"the paragraphs of d fill \d+ of 2000 tokens; give more files, or smaller"):
        next(iter(Distractors([sample(1), sample(2)], encode).lengthened(2000, 0)))
