"""Notes: what the systems that read a text part by part share of prompts, of full notes and of supervised samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from memfold.core.borders import sentences
from memfold.core.document import Chunk
from memfold.core.errors import ConfigError
from memfold.core.model import Model
from memfold.core.prompt import ABSENT, Style, target
from memfold.core.system import AnswerSteps, ask_all
from memfold.core.types import Answer, Call, Reply, Sample
from memfold.systems.shared.mentions import WORD, names_of, word_set
from memfold.systems.shared.passages import PassageIndex

Overflow = Literal["sentence", "shorter", "keep"]
OVERFLOWS: tuple[Overflow, ...] = ("sentence", "shorter", "keep")
Stop = Literal["end", "answered"]  # when reading ends: at the end of the text, or once the note gives an answer
STOPS: tuple[Stop, ...] = ("end", "answered")
Update = tuple[Callable[[int], Call], int]  # makes the call for a note of at most so many tokens; how many

EMPTY = "(nothing yet)"  # text of an empty note
WORDS_PER_TOKEN = 0.75
NOTE, SHARE = 1024, 8  # tokens of a note (the published systems), at most one part in `SHARE` of the window
SHORTEST_CHUNK = 64  # tokens, even where the window has no room for more
PRONOUNS = word_set("he she it they him her them his hers its their theirs")  # refer to the sentence before
PROMPT = 512  # tokens that a prompt may take beside note, text and reply


def fitting_note(window: int) -> int:
    """Return the number of tokens of a note for a model with a context window of `window` tokens."""
    return max(1, min(NOTE, window // SHARE))


def fitting_chunk(window: int, most: int) -> int:
    """Return the number of tokens that are read at a time beside a note and a new one: `most`, or what fits."""
    return max(SHORTEST_CHUNK, min(most, window - 2 * fitting_note(window) - PROMPT))


def write_note(
    update: Callable[[int], Call], limit: int, overflow: Overflow
) -> Generator[tuple[Call, ...], tuple[Reply, ...], str]:
    """Make the call `update` for a note of at most `limit` tokens, and return the note (`write_notes`)."""
    (note,) = yield from write_notes([(update, limit)], overflow)
    return note


def write_notes(
    updates: Sequence[Update], overflow: Overflow
) -> Generator[tuple[Call, ...], tuple[Reply, ...], list[str]]:
    """Make calls together, each for a note of at most its limit of tokens, and return the notes; they may be empty.

    `overflow` says what becomes of a note that does not end within its limit: "sentence" leaves out the sentence that
    was cut off, and those that repeat others; "shorter" first asks again, for half as many tokens; "keep" (the
    published systems) takes it as it is.
    """
    replies = list((yield from ask_all([update(limit) for update, limit in updates])))
    if overflow == "shorter":
        again = [number for number, (_, limit) in enumerate(updates) if replies[number].is_cut and limit > 1]
        shorter = yield from ask_all([updates[number][0](updates[number][1] // 2) for number in again])
        for number, reply in zip(again, shorter, strict=True):
            replies[number] = reply
    return [kept_note(reply, overflow) for reply in replies]


def early_answer(
    stop: Stop, last: str, note: str, answering: Callable[[], AnswerSteps]
) -> Generator[tuple[Call, ...], tuple[Reply, ...], Answer | None]:
    """Return the answer of a note that differs from the `last` one, if that is when reading ends; else None."""
    if stop != "answered" or note == last:
        return None
    answer = yield from answering()
    return None if answer.text == ABSENT else answer


def kept_note(reply: Reply, overflow: Overflow) -> str:
    """Return the note that is taken from a reply."""
    return _whole_sentences(reply.text) if reply.is_cut and overflow != "keep" else reply.text.strip()


def _whole_sentences(text: str) -> str:
    """Return the different sentences of a text without its last one, unless that is the only one."""
    found = list(dict.fromkeys(text[start:end] for start, end in sentences(text)))
    return " ".join(found[:-1] or found)


def word_limit(tokens: int) -> int:
    """Return the number of words that a prompt names as the limit of a note of at most `tokens` tokens."""
    return max(1, int(tokens * WORDS_PER_TOKEN))


@dataclass(frozen=True)
class NotedPart:
    """One reading of a part of the document for a sample: the note before it, and the note that should follow."""

    chunk: Chunk
    before: str
    after: str

    @property
    def adds(self) -> bool:
        """Whether the part adds to the note."""
        return self.after != self.before


def noted_parts(
    sample: Sample, parts: Sequence[Chunk], model: Model, reader: str, passes: int = 1, skip_noted: bool = False
) -> list[NotedPart]:
    """Return the parts of the document in the order in which they are read, with the notes before and after them.

    A note has the supporting sentences that were read so far, except those that a reader cannot know to matter yet:
    the sentence of a second hop names nothing that the question or the note names until the first hop is noted.
    Later `passes` find it; with `skip_noted`, they leave out parts that have added to the note.

    Raises:
        ConfigError: for a sample that is not a question with supporting sentences; `reader` is what reads them.
    """
    check_supported(sample, reader)
    noted: set[int] = set()
    readings = list[NotedPart]()
    waiting = _with_support(sample, parts, model)
    for _ in range(passes):
        left = list[tuple[Chunk, set[int]]]()
        for chunk, held in waiting:
            before = _note(sample, noted)
            noted |= _knowable(sample, noted, held)
            reading = NotedPart(chunk, before, _note(sample, noted))
            readings.append(reading)
            if not (skip_noted and reading.adds):
                left.append((chunk, held))
        waiting = left
    return readings


def search_query(question: str, note: str) -> str:
    """Return what to search for in view of a note."""
    return question if note == EMPTY else f"{question} {note}"


def misleading(question: str, readings: Sequence[NotedPart], count: int, model: Model) -> set[int]:
    """Return the numbers of `count` readings that add nothing, though their parts look as if they could.

    Those are the parts that share the rarest words with the question and the note (BM25): they state the same of
    something else, or something else of the same.  The different notes take turns.
    """
    texts = {reading.chunk.index: reading.chunk.text or model.decode(reading.chunk.tokens) for reading in readings}
    index, places = PassageIndex(list(texts.values())), list(texts)
    ranks = list[tuple[int, int]]()
    for note in dict.fromkeys(reading.before for reading in readings):
        found = [places[place] for place, _ in index.best(search_query(question, note), len(places))]
        idle = [number for number, reading in enumerate(readings) if reading.before == note and not reading.adds]
        ordered = sorted(idle, key=lambda number: found.index(readings[number].chunk.index))
        ranks += enumerate(ordered)
    return {number for _, number in sorted(ranks)[:count]}


def answer_from(note: str, sample: Sample, style: Style) -> str:
    """Return the expected reply to a question from a note: without all of its evidence, that it cannot be answered."""
    if all(sentence in note for sentence in sample.support):
        return target(sample.expected, sample.recalled, style)
    return target(ABSENT, (), style)


def _with_support(sample: Sample, parts: Sequence[Chunk], model: Model) -> list[tuple[Chunk, set[int]]]:
    """Return each part with the numbers of the supporting sentences that end in it."""
    found, start = [], 0
    for chunk in parts:
        # a document given as token ids has no character offsets
        end = chunk.char_end or start + len(model.decode(chunk.tokens))
        found.append((chunk, held_support(sample, start, end)))
        start = end
    return found


def check_supported(sample: Sample, reader: str) -> None:
    """Raise a `ConfigError` for a sample that is not a question with supporting sentences; `reader` reads them."""
    answered = bool(sample.support) or sample.expected == ABSENT
    if not sample.answers or not answered or len(sample.support) != len(sample.evidence):
        raise ConfigError(
            f"task {sample.task!r} cannot train {reader}: its notes consist of the supporting sentences of an answer; "
            "use a task that has them, such as almanac"
        )


def adds_to(note: str, sample: Sample, held: Set[int]) -> bool:
    """Return whether a part that holds these supporting sentences has one that a note lacks and leads to."""
    noted = {number for number, sentence in enumerate(sample.support) if sentence in note}
    return bool(_knowable(sample, noted, held, note) - noted)


def held_support(sample: Sample, start: int, end: int) -> set[int]:
    """Return the numbers of the supporting sentences that end in these characters of the document."""
    return {number for number, span in enumerate(sample.evidence) if start < span.end <= end}


def _knowable(sample: Sample, noted: Set[int], held: Set[int], note: str = "") -> set[int]:
    """Return the supporting sentences of a part that question and note lead to, directly or through one another.

    `note` is what a reader has written, if that is more than the sentences that are `noted`.
    """
    known = set(noted)
    for _ in held:
        names = names_of(" ".join([sample.question, note, *(sample.support[number] for number in sorted(known))]))
        for number in sorted(held - known):
            own = set(WORD.findall(sample.support[number]))
            refers = "there" in own or not PRONOUNS.isdisjoint(map(str.casefold, own))
            if (refers and number - 1 in known) or not names or own.intersection(names):
                known |= {number - 1, number} & held if refers else {number}
    return known & held


def _note(sample: Sample, noted: Set[int]) -> str:
    return " ".join(sample.support[number] for number in sorted(noted)) or EMPTY
