import re

from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.tasks.task import Encode
from memfold.tasks.tracking import tracking, tracking_questions


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9), size=st.integers(220, 900), hops=st.integers(1, 5))
def test_a_chain_leads_from_the_number_to_every_name(encode: Encode, seed: int, size: int, hops: int) -> None:
    sample = tracking(seed, size, encode, hops=hops)
    text = sample.document.read()
    assert 0.7 * size <= len(encode(text)) <= size
    assert len(set(sample.answers)) == hops + 1
    assert [text[span.start : span.end] for span in sample.evidence] == list(sample.support)
    starts = [span.start for span in sample.evidence]
    assert starts == sorted(starts)
    first, *follow = sample.support
    number = first.rstrip(".").split()[-1]
    assert number in sample.question
    assert text.count(number) == 1
    assert first.startswith(f"The number of {sample.answers[0]} is")
    for before, name, sentence in zip(sample.answers, sample.answers[1:], follow, strict=False):
        assert sentence == f"The number of {name} is that of {before}."
    assert text.count("The number of") == 2 * (hops + 1)  # with the chain of another number


def test_a_seed_gives_one_document(encode: Encode) -> None:
    assert tracking(3, 300, encode) == tracking(3, 300, encode)
    assert tracking(3, 300, encode) != tracking(4, 300, encode)


def test_every_chain_of_a_document_has_a_question(encode: Encode) -> None:
    samples = tracking_questions(3, 600, encode, chains=3)
    assert samples[0] == tracking(3, 600, encode, chains=3)
    (text,) = {sample.document.read() for sample in samples}
    said = dict(re.findall(r"The number of (\w+) is (?:that of )?(\w+)\.", text))
    assert len(said) == 15

    def number_of(name: str) -> str:
        return name if name.isdecimal() else number_of(said[name])

    for sample in samples:
        (asked,) = re.findall(r"\d{5}", sample.question)
        assert {name for name in said if number_of(name) == asked} == set(sample.answers)
        assert tuple(text[span.start : span.end] for span in sample.evidence) == sample.support
