from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.tasks.task import Encode
from memfold.tasks.tracking import tracking


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
