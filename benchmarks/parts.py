"""The parts of docs/results.md: what is measured for it, by which commands of memfold.

`benchmarks/pooled.py` runs them, `benchmarks/results.py` makes the page of what they wrote.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LONG = "8192,32768,122880"
QUICK_LENGTHS = "256,512"


@dataclass(frozen=True)
class Part:
    """`commands` are those of memfold, by name; `needs` is what a run must be given or have, empty for nothing."""

    name: str
    commands: dict[str, tuple[str, ...]]
    quick: dict[str, tuple[str, ...]]
    needs: str = ""


def _bench(name: str, *words: str, lengths: str = LONG, needs: str = "") -> Part:
    """A part that is one benchmark."""
    quick = ("bench", *words, "--lengths", QUICK_LENGTHS, "--runs", "2", "--warmups", "1")
    return Part(name, {name: ("bench", *words, "--lengths", lengths)}, {name: quick}, needs)


def _eval(name: str, *words: str, lengths: str, size: tuple[str, str], quick: tuple[str, ...]) -> Part:
    """A part that is one evaluation."""
    tried = ("eval", *words, "--lengths", QUICK_LENGTHS, *quick)
    return Part(name, {name: ("eval", *words, "--lengths", lengths, *size)}, {name: tried})


def _wrapper(wrapper: str) -> tuple[str, ...]:
    return (
        "eval", "almanac", "--system", f"pooled/wrapper={wrapper}", "--level", "1", "--split", "in",
    )  # fmt: skip


QUICK_SIZE = ("--lengths", "128", "--questions", "4")
HAYSTACKS = "1024,4096,16384,32768,65536,122880"
READERS = ("--system", "pooled", "--system", "retrieval")
ANSWERING = ("full", "pooled:16", "pooled:4", "retrieval", "closed-book")
SHORT = "128,256,512,1024"
FULL_SIZE = ("--lengths", SHORT, "--questions", "1000")


def _almanac(name: str, *words: str, systems: tuple[str, ...] = ANSWERING, lengths: str = SHORT) -> Part:
    """A part that asks the almanac's questions, one to a document."""
    asked = [word for system in systems for word in ("--system", system)]
    return _eval(name, "almanac", *asked, *words, lengths=lengths, size=("--questions", "1000"),
                 quick=("--questions", "4"))  # fmt: skip


PARTS = (
    _bench("fold", "fold"),
    _bench("first-token", "first-token"),
    _bench("growth", "fold", "--runs", "3", "--warmups", "1", lengths="8192,32768,131072,524288,1048576"),
    _bench("rollout", "rollout", lengths="512,4096"),
    _bench("systems", "systems", lengths="2048,8192,32768"),
    _bench("first-token-7b", "first-token", "--architecture", "7b", needs="cuda"),
    Part(
        "wrapper",
        {wrapper: (*_wrapper(wrapper), *FULL_SIZE) for wrapper in ("span", "slot")},
        {wrapper: (*_wrapper(wrapper), *QUICK_SIZE) for wrapper in ("span", "slot")},
        needs="slot-model",
    ),
    _almanac("facts", "--level", "1", "--split", "in"),
    _almanac("almanac-in", "--split", "in", systems=(*ANSWERING, "pooled/unfold=256")),
    _almanac("almanac-out", "--split", "out"),
    _almanac("longer", "--level", "1", "--split", "in", systems=("full", "pooled:16", "retrieval"),
             lengths="1024,4096,8192"),
    _eval("reconstruction", "reconstruction", "--system", "pooled:16", "--system", "pooled:4",
          lengths="256,512,1024,2048", size=("--questions", "80"), quick=("--questions", "4")),
    _eval("needle", "needle", *READERS, lengths=HAYSTACKS, size=("--cells", "full"), quick=("--questions", "22")),
    _eval("multihop", "multihop", "--kind", "two-hop", *READERS, lengths="4096,8192,16384,32768,65536,122880",
          size=("--cells", "full"), quick=("--questions", "4")),
    _eval("strings", "strings", lengths="1024,4096,16384", size=("--questions", "600"), quick=("--questions", "8")),
)  # fmt: skip
BY_NAME = {part.name: part for part in PARTS}


def shown(part: Part, name: str) -> str:
    """The command of a part as a person would type it."""
    slot = " --model SLOT_MODEL" if part.needs == "slot-model" and name == "slot" else ""
    cuda = " --device cuda" if part.needs == "cuda" else ""
    return f"memfold {shlex.join(part.commands[name])}{slot}{cuda}"
