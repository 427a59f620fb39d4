"""Notes on different parts of a text become one: what is kept, in which order, and what there is no room for."""

from __future__ import annotations

import pytest

from memfold.core.borders import sentences
from memfold.systems.shared.merging import merged_note, new_sentences
from memfold.systems.shared.notes import EMPTY

QUESTION = "Where does the brother of Ada live?"
ADA, BEL, LOR, TOR = "Ada sells wool.", "Bel is a brother of Ada.", "Lor has boats.", "Tor is a town by the sea."


def test_the_shared_note_comes_first_and_new_sentences_in_the_order_of_the_text() -> None:
    notes = [f"{ADA} {TOR}", f"{LOR} {ADA}", "", BEL]
    assert merged_note(ADA, notes, QUESTION, 999) == f"{ADA} {TOR} {LOR} {BEL}"


def test_what_the_notes_leave_out_of_the_shared_one_stays() -> None:
    assert merged_note(f"{ADA} {BEL}", [BEL, LOR], QUESTION, 999) == f"{ADA} {BEL} {LOR}"


def test_a_sentence_with_the_same_words_is_there_once() -> None:
    notes = ["ada  sells wool", "- Lor has boats.\n- Lor has boats.", "Lor has boats", "...", LOR]
    assert merged_note(ADA, notes, QUESTION, 999) == f"{ADA} - Lor has boats."


def test_notes_without_anything_new_leave_the_shared_note_as_it_is() -> None:
    note = "Ada sells wool.  Bel\nis."
    assert merged_note(note, ["", EMPTY, "Ada sells wool. bel is", "Bel\nis"], QUESTION, 0) == note
    assert merged_note(EMPTY, [EMPTY, " ", f"{EMPTY}\n"], QUESTION, 999) == EMPTY
    assert merged_note(EMPTY, [], QUESTION, 999) == EMPTY


def test_an_empty_note_is_no_sentence() -> None:
    assert merged_note(EMPTY, [EMPTY, ADA, f"{EMPTY}\n{LOR}"], QUESTION, 999) == f"{ADA} {LOR}"


@pytest.mark.parametrize(
    ("room", "added"),
    [
        (len(f"{LOR} {TOR} {BEL}"), [LOR, TOR, BEL]),
        (len(f"{LOR} {TOR} {BEL}") - 1, [TOR, BEL]),  # Tor shares a word with the question, Lor none
        (len(f"{TOR} {BEL}") - 1, [LOR, BEL]),  # no room for Tor, but for a shorter sentence
        (len(f"{LOR} {BEL}") - 1, [BEL]),
        (len(BEL), [BEL]),
        (len(BEL) - 1, [LOR]),
        (len(LOR) - 1, []),
    ],
)
def test_the_limit_keeps_what_shares_the_rarest_words(room: int, added: list[str]) -> None:
    """Exactly: a character less, and the sentence that shares least with the question and the note is left out."""
    question = "Which brother of Ada lives in a town?"
    assert merged_note(ADA, [LOR, TOR, BEL], question, len(ADA) + 1 + room) == " ".join([ADA, *added])


def test_what_the_shared_note_names_counts_too() -> None:
    notes = ["Gub sells oil.", "Bel lives in Tor."]
    assert merged_note("Bel is his brother.", notes, "Where?", 40) == "Bel is his brother. Bel lives in Tor."


def test_a_note_has_a_sentence_at_least() -> None:
    assert merged_note(EMPTY, [LOR, BEL], QUESTION, 3) == BEL
    assert merged_note(ADA, [LOR, BEL], QUESTION, 3) == ADA


@pytest.mark.parametrize("notes", [["Name: Ada\nTrade: wool", "Town: Tor"], ["\u5979\u5728\u4eac\u3002", "Ada."]])
def test_the_merged_note_has_the_same_sentences_and_merging_them_again_adds_nothing(notes: list[str]) -> None:
    note = merged_note(EMPTY, notes, QUESTION, 999)
    found = [note[start:end] for start, end in sentences(note)]
    assert found == [sentence for each in notes for sentence in new_sentences(each, set())]
    assert merged_note(note, [note, *notes], QUESTION, 999) == note
