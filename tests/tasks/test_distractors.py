import pytest

from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import Sample, Span
from memfold.tasks.distractors import Distractors, published_order
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


def test_the_published_order_has_its_paragraphs_at_the_places_of_the_published_data(encode: Encode) -> None:
    """The dossier counts from 1: slots 7, 10, 17, 81, 88, 96, 109, 154, 177 and 191 of 200."""
    order = published_order([str(number) for number in range(200)])
    assert sorted(order.index(str(own)) + 1 for own in range(10)) == [7, 10, 17, 81, 88, 96, 109, 154, 177, 191]
    samples = [sample(number) for number in range(40)]
    longer = list(Distractors(samples, encode, "published").lengthened(200, 0))
    places = set()
    for number, lengthened in enumerate(longer):
        paragraphs = lengthened.document.read().split("\n\n")
        places.add((len(paragraphs), paragraphs.index(samples[number].document.read().split("\n\n")[0])))
        (span,) = lengthened.evidence
        assert lengthened.document.read()[span.start : span.end] == samples[number].support[0]
    assert len(places) == len({count for count, _ in places}), "the place depends on the number of paragraphs alone"


def test_longer_samples_are_skipped_and_small_pools_are_refused(encode: Encode) -> None:
    long = Sample("d", Document("long", text="Word. " * 300), "Which?", ("x",))
    pool = Distractors([long, *(sample(number) for number in range(40))], encode)
    assert next(iter(pool.lengthened(200, 0))).question == "Which river 0?"
    with pytest.raises(DataError, match=r"the paragraphs of d fill \d+ of 2000 tokens; give more files, or smaller"):
        next(iter(Distractors([sample(1), sample(2)], encode).lengthened(2000, 0)))


def marked(number: int) -> Sample:
    """A sample with evidence in both paragraphs; the same sentence stands in the paragraphs of all samples."""
    text = f"Town {number}\nIts river is wide.\n\nRiver {number}\nIt is old. Its river is wide."
    places = (text.index("Its"), text.index("It is"))
    evidence = tuple(Span(start, text.index(".", start) + 1) for start in places)
    support = tuple(text[span.start : span.end] for span in evidence)
    return Sample("d", Document(str(number), text=text), f"{number}?", ("x",), evidence=evidence, support=support)


def test_documents_of_a_number_of_paragraphs_in_random_order(encode: Encode) -> None:
    pool = Distractors(map(marked, range(40)), encode)
    longer = list(pool.among(12, 0))
    assert longer == list(pool.among(12, 0))
    assert longer != list(pool.among(12, 1))
    orders = set()
    for number, (sample, original) in enumerate(zip(longer, pool.samples, strict=True)):
        text, own = sample.document.read(), original.document.read().split("\n\n")
        paragraphs = text.split("\n\n")
        assert len(paragraphs) == len({paragraph.split("\n")[0] for paragraph in paragraphs}) == 12
        assert set(own) <= set(paragraphs)
        assert tuple(text[span.start : span.end] for span in sample.evidence) == sample.support
        within = [text.rfind("\n\n", 0, span.start) + 2 for span in sample.evidence]
        assert [text[max(0, start) if start > 1 else 0 :].split("\n")[0] for start in within] == [
            f"Town {number}",
            f"River {number}",
        ]
        orders.add(sample.evidence[0].start < sample.evidence[1].start)
    assert orders == {True, False}, "those of the question are shuffled too"


def test_too_few_or_too_many_paragraphs(encode: Encode) -> None:
    pool = Distractors(map(marked, range(5)), encode)
    with pytest.raises(DataError, match="the rows of d have 10 of 11 articles; give more files, or smaller --lengths"):
        next(pool.among(11, 0))
    with pytest.raises(DataError, match="all questions of d have more than 1 articles of their own; use larger"):
        next(pool.among(1, 0))
