"""The sections of docs/results.md, in their order: each has a target, and a table made of the files of one part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import results_quality as quality
import results_speed as speed
import results_trust as trust
from results_outcome import Json, Outcome


@dataclass(frozen=True)
class Section:
    """`read` makes the rows of a file, `columns` head them after the machine; `plots` adds the plots of the files."""

    title: str
    target: str
    part: str
    columns: tuple[str, ...]
    read: Callable[[Json], Outcome]
    plots: bool = False


GAINS = ("full, s", "memory, s", "speed-up", "predicted", "measured / predicted", "paper, 7B", "break-even questions")
FIRST_TOKEN = ("tokens", "wrapper", *GAINS)
VERY_LONG = ("tokens", "system", "right", "one hop", "two hops", "calls", "blocks read", "evidence read", "seconds")
MEMORY = ("tokens", "full MB", "slot MB", "span MB", "with folding MB", "slot / full", "span / full")
KINDS = ("system", "all", "one hop", "two hops", "comparison", "listing", "counting")
REPLIES = ("replies that expand", "of their tokens", "fidelity", "verbatim", "expansion has the answer")
EXPANSION = ("system", *REPLIES, "invented names", "tokens")
STRINGS = ("tokens", "system", "exact", "block cited", "exact of these", "sentence unfolded", "exact of these")
MARKS = ("unanswerable: name", "answerable: name", "unanswerable: any", "wrong: any", "right: any")
AGAIN = ("of the questions", "false alarms", "misses", "written tokens")
COSTS = (
    "tokens",
    "system",
    "fold, s",
    "first token, s",
    "answer, s",
    "second question, s",
    "calls that generate",
    "pays after",
    "peak MB, fold",
    "peak MB, first token",
    "bytes on disk",
)

SECTIONS = (
    Section(
        "Speed of folding",
        "tokenising and writing included, at least 0.8 of the speed of the model's own forward pass without its head",
        "fold",
        ("tokens", "tokens/s", "relative to forward pass", "seconds", "peak MB"),
        speed.folding_speed,
        plots=True,
    ),
    Section(
        "First token from a stored memory",
        "at least 0.8 of the speed-up over the full text that an operation count predicts, for wrappers slot and span",
        "first-token",
        FIRST_TOKEN,
        speed.first_token,
        plots=True,
    ),
    Section(
        "First token at the size of a 7B model",
        "at least 0.8 of the predicted speed-up, with random weights, beside the paper's trained model on its own GPU",
        "first-token-7b",
        FIRST_TOKEN,
        speed.first_token,
    ),
    Section(
        "First token with folding included",
        "faster than the full text on the first question at 32,768 tokens",
        "first-token",
        ("tokens", "full, s", "fold and first token, s", "speed-up", "predicted"),
        speed.first_token_with_folding,
    ),
    Section(
        "Peak memory",
        "at most 0.4 of the peak of the full text at 120K tokens, both measured above the weights",
        "first-token",
        MEMORY,
        speed.peak_memory,
    ),
    Section(
        "Growth of folding time",
        "a log-log slope of at most 1.05 from 8K to 1M tokens",
        "growth",
        ("tokens", "seconds", "tokens/s", "peak MB"),
        speed.folding_growth,
    ),
    Section(
        "Wrapper span against slot",
        "span at most 1 point behind slot, each in a model trained with it. The ablations compare them on a small "
        "budget: [ablations.md](ablations.md), row wrapper-slot",
        "wrapper",
        ("wrapper", "right"),
        quality.wrappers,
    ),
    Section(
        "One-hop questions",
        "level 1, 128 to 1,024 tokens: 95 % with `full`; 90 % of that at 16x, 97 % at 4x",
        "facts",
        ("tokens", "system", "right"),
        quality.one_hop,
    ),
    Section(
        "All kinds of questions",
        "level 3, 128 to 1,024 tokens: with `full` 95 % of the one-hop and 80 % of the two-hop questions",
        "almanac-in",
        KINDS,
        quality.question_kinds,
    ),
    Section(
        "All kinds of questions, out of distribution",
        "the same, on templates, relations and names that training never shows",
        "almanac-out",
        KINDS,
        quality.question_kinds,
    ),
    Section(
        "Citations",
        "80 % of the right answers from slots have a sentence of the evidence among their first three citations",
        "almanac-in",
        ("system", "one sentence", "all sentences", "characters cited"),
        quality.citations,
    ),
    Section(
        "Implicit expansion",
        "none; the table shows how much of the document replies write out before they answer, and how accurately",
        "almanac-in",
        EXPANSION,
        quality.expansion,
    ),
    Section(
        "Longer texts",
        "16x loses at most 5 points from 1,024 tokens to 4,096 and 8,192",
        "longer",
        ("tokens", "system", "right"),
        quality.longer_texts,
    ),
    Section(
        "Blocks of keys and values without training",
        "at ratio 4, at least 90 % of the right answers from the full text, with pairs chosen better than at random "
        "and by recency ([kvbank.md](kvbank.md))",
        "selection",
        KINDS,
        quality.selection,
    ),
    Section(
        "Trained blocks of keys and values",
        "one hop, level 1, one block of 128 to 1,024 tokens: at ratio 4 at most 1 % fewer right answers than from the "
        "full text, at ratio 16 at least 90 % of them",
        "blocks",
        ("tokens", "system", "right"),
        quality.blocks,
    ),
    Section(
        "Very long texts",
        "`kvbank` with its gate: 90 % of one-hop and 80 % of two-hop questions at 7K tokens, and less than 5 points "
        "lost with length. Questions share documents, so intervals are too narrow",
        "ruler-hqa",
        VERY_LONG,
        quality.very_long,
    ),
    Section(
        "The longest texts",
        "none; all systems side by side, with a search before reading, so that the cost does not depend on the length",
        "longest",
        VERY_LONG,
        quality.side_by_side,
    ),
    Section(
        "Settings of `recurrent`",
        "none; notes of 128 tokens, chunks of 512, two passes over the text, and one of these changed at a time",
        "notes",
        VERY_LONG,
        quality.side_by_side,
    ),
    Section(
        "Fidelity of slots",
        "a reconstruction loss below 0.1 nats a token, at which the pooled paper ends its first phase",
        "fidelity",
        ("slots per call", "tokens", "system", "whole groups", "whole, forced", "numbers and codes", "names", "loss"),
        quality.fidelity,
    ),
    Section(
        "Reconstruction",
        "ROUGE-L at 16x of at least 0.97 at 512 tokens and 0.95 at 2,048",
        "reconstruction",
        ("tokens", "system", "ROUGE-1", "ROUGE-L"),
        quality.reconstruction,
    ),
    Section(
        "Needle",
        "a mean score of at least 9 of 10 from 1K to 120K tokens and no cell below 6. It was set for a model trained "
        "on at most 4K tokens; the shipped model has also read finished memories of up to 64K",
        "needle",
        ("tokens", "system", "score, 1 to 10", "lowest cell", "exact", "lowest cell"),
        quality.needle,
        plots=True,
    ),
    Section(
        "Multihop",
        "at most 5 points lower at 120K tokens than at 4K",
        "multihop",
        ("system", "shortest", "longest", "lost"),
        quality.multihop,
        plots=True,
    ),
    Section(
        "Exact strings",
        "at least 98 % with unfold where the right block is cited",
        "strings",
        STRINGS,
        quality.strings,
    ),
    Section(
        "Recalled sentences that are not in the text",
        "under 2 % of them are not marked, and under 2 % of the others are marked (level 3, 16x)",
        "trust",
        ("system", "recalled sentences that are not in the text", "of these not marked", "of the others marked"),
        trust.sentences,
    ),
    Section(
        "Questions that the text does not answer",
        "at least 90 % refused, and at most 3 % of the others (level 3)",
        "trust",
        ("system", "refused by", "unanswerable, refused", "answerable, refused", "right answers, refused"),
        trust.refusals,
    ),
    Section(
        "Marks beside an answer",
        "none; the table shows how often an answer that is no refusal has a mark",
        "trust",
        ("system", *MARKS),
        trust.marks,
    ),
    Section(
        "Names that the text does not mention",
        "none; the table shows the same mark for questions of public datasets",
        "trust",
        ("dataset", "another text: marked", "own text: marked"),
        trust.names,
    ),
    Section(
        "Reading the text again in doubt",
        "none; the table compares it with reading the text again never, and always",
        "trust",
        ("text is read again", "right", *AGAIN, "seconds, relative", "tokens, relative"),
        trust.again,
    ),
    Section(
        "Texts unlike the training text",
        "every answer about a foreign text is warned about, and at most 2 % of almanac texts are",
        "trust",
        ("text", "every answer", "memory", "slots alone"),
        trust.texts,
    ),
    Section(
        "Documents folded at once",
        "eight documents of the shortest length at least twice as fast at once as one by one",
        "fold",
        ("documents", "tokens each", "one by one, s", "at once, s", "speed-up"),
        speed.folding_together,
    ),
    Section(
        "Sampling for reinforcement learning",
        "at least 0.7 of the speed at which the backbone decodes the same replies in the same batch",
        "rollout",
        ("tokens", "replies", "reply tokens/s", "relative to decoding"),
        speed.rollout,
    ),
    Section(
        "Systems side by side",
        "none; the table shows what each system costs",
        "systems",
        COSTS,
        speed.system_costs,
        plots=True,
    ),
    Section(
        "Systems that read block by block, at 128K tokens",
        "`kvbank` answers from a stored bank 6 times sooner than `recurrent` with one pass, and 3.5 times sooner than "
        "without its gate",
        "systems-128k",
        COSTS,
        speed.loops,
    ),
)
