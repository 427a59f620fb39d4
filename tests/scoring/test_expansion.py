from __future__ import annotations

import pytest

from memfold.scoring.expansion import (
    Expansion,
    contains_fact,
    expanded_share,
    expansions,
    invented_names,
)

DOCUMENT = (
    "Ada Mir was born in the town of Velm in 1733. The river Sanu flows through Velm. "
    "She wrote The Light of Ost, a book of 412 pages, when she was still young."
)


def test_a_sentence_written_out_again_is_found_in_its_place() -> None:
    reply = r"Let me see. Ada Mir was born in the town of Velm in 1733. So it is \boxed{1733}"
    (found,) = expansions(reply, DOCUMENT)
    assert reply[found.start : found.end] == "Ada Mir was born in the town of Velm in 1733."
    assert DOCUMENT[found.source_start : found.source_end] == "Ada Mir was born in the town of Velm in 1733."
    assert (found.same, found.tokens, found.verbatim, found.fidelity) == (12, 12, True, 1.0)


def test_an_altered_detail_lowers_the_fidelity() -> None:
    (found,) = expansions("Ada Mir was born in the town of Ost in 1733.", DOCUMENT)
    assert (found.same, found.tokens, found.verbatim) == (11, 12, False)
    (left_out,) = expansions("The Light of Ost, a book of pages, when she was", DOCUMENT)
    assert (left_out.same, left_out.tokens) == (13, 14)


@pytest.mark.parametrize(("reply", "count"), [
    ("ADA MIR was born in the", 1),  # six tokens, any case
    ("Mir was born in the", 0),  # five
    ("in the town of Velm flows through the river Sanu", 0),  # runs that are far apart in the document
    ("Ada Mir was born in the town. And then: she wrote the light of Ost, a book", 2),
    ("", 0),
])  # fmt: skip
def test_what_counts_as_an_expansion(reply: str, count: int) -> None:
    assert len(expansions(reply, DOCUMENT)) == count


def test_an_empty_document_has_nothing_to_expand() -> None:
    assert expansions("Ada Mir was born in the town of Velm", "") == []


def test_repeated_text_goes_on_where_it_was() -> None:
    document = "one two three four. x y z. one two three five six seven."
    (found,) = expansions("x y z. one two three five six seven.", document)
    assert (found.source_start, found.verbatim) == (20, True)


def test_the_gold_fact_stands_in_what_is_expanded() -> None:
    reply = "Ada Mir was born in the town of Velm in 1733, I think."
    found = expansions(reply, DOCUMENT)
    assert contains_fact(reply, found, ("1733",))
    assert contains_fact(reply, found, ("1734", "Velm"))
    assert not contains_fact(reply, found, ("1733", "412"), every=True)
    assert not contains_fact(reply, [], ("1733",))
    assert expanded_share(reply, found) == 11 / 15
    assert expanded_share("", []) == 0


@pytest.mark.parametrize(("reply", "names"), [
    ("Ada lives in Biberon by the Tiber.", ["Biberon", "Tiber"]),
    ("Therefore the answer is Velm.", []),  # a word that begins a sentence is no name
    ("It flows. Zora Kin wrote it.", ["Zora", "Kin"]),  # two in a row are
    (r"\boxed{Velm}", []),
    (r"\boxed{Tor}", ["Tor"]),
    ("ADA Mir-Sanu and Mir-Tor", ["Mir-Tor"]),
    ("Velm Velm Tibur and Tibur", ["Tibur"]),
])  # fmt: skip
def test_names_that_nobody_has_said(reply: str, names: list[str]) -> None:
    assert invented_names(reply, DOCUMENT, "Who is it?") == names


def test_fidelity_is_a_share_of_the_longer_side() -> None:
    assert Expansion(0, 9, 0, 12, 6, 8).fidelity == 0.75
