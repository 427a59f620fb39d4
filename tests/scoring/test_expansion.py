from __future__ import annotations

import pytest

from memfold.scoring.expansion import Expansion, contains_fact, expanded_share, expansions, invented_names

DOCUMENT = (
    "Ada Mir was born in the town of Velm in 1733. The river Sanu flows through Velm. "
    "She wrote The Light of Ost, a book of 412 pages, when she was still young."
)


def test_a_reproduced_sentence_is_found() -> None:
    reply = r"Let me see. Ada Mir was born in the town of Velm in 1733. So it is \boxed{1733}"
    (expansion,) = expansions(reply, DOCUMENT)
    assert reply[expansion.start : expansion.end] == "Ada Mir was born in the town of Velm in 1733."
    assert DOCUMENT[expansion.source_start : expansion.source_end] == "Ada Mir was born in the town of Velm in 1733."
    assert (expansion.same, expansion.tokens, expansion.verbatim, expansion.fidelity) == (12, 12, True, 1.0)


def test_an_altered_detail_lowers_the_fidelity() -> None:
    (replaced,) = expansions("Ada Mir was born in the town of Ost in 1733.", DOCUMENT)
    assert (replaced.same, replaced.tokens, replaced.verbatim) == (11, 12, False)
    (omitted,) = expansions("The Light of Ost, a book of pages, when she was", DOCUMENT)
    assert (omitted.same, omitted.tokens) == (13, 14)


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("ADA MIR was born in the", 1),  # six tokens in any case
        ("Mir was born in the", 0),  # five tokens
        ("in the town of Velm flows through the river Sanu", 0),  # runs that are far apart in the document
        ("Ada Mir was born in the town. And then: she wrote the light of Ost, a book", 2),
        ("", 0),
    ],
)
def test_what_counts_as_an_expansion(reply: str, count: int) -> None:
    assert len(expansions(reply, DOCUMENT)) == count


def test_an_empty_document_has_no_expansions() -> None:
    assert expansions("Ada Mir was born in the town of Velm", "") == []


def test_repeated_text_is_matched_where_the_last_run_ended() -> None:
    document = "one two three four. x y z. one two three five six seven."
    (expansion,) = expansions("x y z. one two three five six seven.", document)
    assert (expansion.source_start, expansion.verbatim) == (20, True)


def test_the_gold_fact_is_part_of_an_expansion() -> None:
    reply = "Ada Mir was born in the town of Velm in 1733, I think."
    expanded = expansions(reply, DOCUMENT)
    assert contains_fact(reply, expanded, ("1733",))
    assert contains_fact(reply, expanded, ("1734", "Velm"))
    assert not contains_fact(reply, expanded, ("1733", "412"), every=True)
    assert not contains_fact(reply, [], ("1733",))
    assert expanded_share(reply, expanded) == 11 / 15
    assert expanded_share("", []) == 0


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        ("Ada lives in Biberon by the Tiber.", ["Biberon", "Tiber"]),
        ("Therefore the answer is Velm.", []),  # the first word of a sentence is not a name
        ("It flows. Zora Kin wrote it.", ["Zora", "Kin"]),  # unless another capitalised word follows
        (r"\boxed{Velm}", []),
        (r"\boxed{Tor}", ["Tor"]),
        ("ADA Mir-Sanu and Mir-Tor", ["Mir-Tor"]),
        ("Velm Velm Tibur and Tibur", ["Tibur"]),
    ],
)
def test_names_that_are_in_no_known_text_are_invented(reply: str, names: list[str]) -> None:
    assert invented_names(reply, DOCUMENT, "Who is it?") == names


def test_fidelity_is_a_fraction_of_the_longer_span() -> None:
    assert Expansion(0, 9, 0, 12, 6, 8).fidelity == 0.75
