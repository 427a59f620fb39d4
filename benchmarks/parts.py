"""The parts of docs/results.md: the commands that measure them.

`benchmarks/pooled.py` runs them, and `benchmarks/results.py` writes the page from their results.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SHORT = "128,256,512,1024"
LONG = "8192,32768,122880"
GROWTH = "8192,32768,131072,524288,1048576"
NEEDLE = "1024,4096,16384,32768,65536,122880"
MULTIHOP = "4096,8192,16384,32768,65536,122880"
QUICK_LENGTHS = "256,512"
ANSWERING = ("full", "pooled:16", "pooled:16/groups=fixed", "pooled:4", "retrieval", "closed-book")
FACTS = ("--level", "1", "--split", "in")
SELECTING = ("reconstruction", "expected", "norm", "recent", "random")  # compressors of kvbank without training


@dataclass(frozen=True)
class Part:
    """Commands by name, at full size and `quick`; `needs` is the GPU or model they require, if any.

    They are commands of memfold, or of a `script` in this folder.
    """

    name: str
    commands: dict[str, tuple[str, ...]]
    quick: dict[str, tuple[str, ...]]
    needs: str = ""
    script: str = ""

    @property
    def program(self) -> str:
        """What runs the commands, as a person would type it."""
        return f"python benchmarks/{self.script}" if self.script else "memfold"


def shown(part: Part, name: str) -> str:
    """A command of a part as a person would type it."""
    slot = " --model SLOT_MODEL" if part.needs == "slot-model" and name == "slot" else ""
    cuda = " --device cuda" if part.needs == "cuda" else ""
    return f"{part.program} {shlex.join(part.commands[name])}{slot}{cuda}"


def _bench(name: str, *words: str, lengths: str = LONG, needs: str = "") -> Part:
    """A part with one benchmark."""
    quick = ("bench", *words, "--lengths", QUICK_LENGTHS, "--runs", "2", "--warmups", "1")
    return Part(name, {name: ("bench", *words, "--lengths", lengths)}, {name: quick}, needs)


def _eval(name: str, *words: str, lengths: str, size: tuple[str, ...], quick: int = 4) -> Part:
    """A part with one evaluation, which has `quick` questions with --quick."""
    quick_command = ("eval", *words, "--lengths", QUICK_LENGTHS, *_questions(quick))
    return Part(name, {name: ("eval", *words, "--lengths", lengths, *size)}, {name: quick_command})


def _almanac(name: str, *words: str, systems: tuple[str, ...] = ANSWERING, lengths: str = SHORT) -> Part:
    """A part with questions of the almanac, one to a document."""
    return _eval(name, "almanac", *_systems(*systems), *words, lengths=lengths, size=_questions(1000))


def _haystack(name: str, *words: str, lengths: str, quick: int = 4) -> Part:
    """A part that hides sentences in long texts and compares slots with retrieval."""
    systems = _systems("pooled", "retrieval")
    return _eval(name, name, *words, *systems, lengths=lengths, size=("--cells", "graded"), quick=quick)


def _wrapper(lengths: str, questions: int) -> dict[str, tuple[str, ...]]:
    """The same evaluation with wrapper span and with wrapper slot."""
    size = ("--lengths", lengths, *_questions(questions))
    return {
        wrapper: ("eval", "almanac", *_systems(f"pooled/wrapper={wrapper}"), *FACTS, *size)
        for wrapper in ("span", "slot")
    }


def _systems(*labels: str) -> tuple[str, ...]:
    return tuple(word for label in labels for word in ("--system", label))


def _questions(count: int) -> tuple[str, ...]:
    return ("--questions", str(count))


def _selections() -> list[str]:
    """Every compressor at ratio 4, and the best one at other ratios; the model reads the block itself."""
    own = [f"kvbank:4/compressor={name}/reading=block" for name in SELECTING]
    return [*own, *(f"kvbank:{ratio}/compressor={SELECTING[0]}/reading=block" for ratio in (2, 8, 16))]


def _ruler(lengths: str, questions: int, *systems: str, per_document: int = 16) -> tuple[str, ...]:
    """Questions about very long texts."""
    size = (*_questions(questions), "--per-document", str(per_document))
    return ("eval", "ruler-hqa", *_systems(*systems), "--lengths", lengths, *size)


BLOCKS = tuple(f"kvbank:{ratio}/reading=block/chunk=1024" for ratio in (4, 8, 16))
BANK, SEARCHED, OPEN = "kvbank", "kvbank/candidates=8", "kvbank/gate=open"
QUICK = (BANK, SEARCHED, OPEN, "recurrent", "retrieval")
# what reads every block costs minutes a question where the text is long
RULER = {
    "gate": _ruler("7168,28672", 256, BANK, SEARCHED, "retrieval"),
    "every-block": _ruler("7168", 32, OPEN, "recurrent"),
}
# a search before reading, so that a question costs the same at every length; blocks are made when they are read
SLOTS = "pooled/chunk=512/candidates=8"
BESIDE = ("retrieval", f"{SEARCHED}/store=text", "recurrent/candidates=8")
LONGEST = {
    "searched": _ruler("7168,28672,114688,458752,1835008,3670016", 96, *BESIDE),
    "slots": _ruler("7168,28672,114688,458752", 64, SLOTS),  # folding takes a minute for 300,000 tokens
    "full": _ruler("7168", 16, "full"),
}
# the settings of reading, one changed at a time
VARIED = ("note=32", "note=64", "chunk=256", "passes=1", "parallel=true", "candidates=8", "stop=answered")
NOTES = ("recurrent", *(f"recurrent/{setting}" for setting in VARIED), "kvbank/reading=text")
LOOPS = (BANK, SEARCHED, OPEN, "recurrent/passes=1")  # the published algorithms beside the search
RECONSTRUCTION = ("reconstruction", *_systems("pooled:16", "pooled:4"))

PARTS = (
    _bench("fold", "fold"),
    _bench("first-token", "first-token"),
    _bench("growth", "fold", "--runs", "3", "--warmups", "1", lengths=GROWTH),
    _bench("rollout", "rollout", lengths="512,4096"),
    _bench("systems", "systems", lengths="2048,8192,32768"),
    _bench("systems-128k", "systems", *_systems(*LOOPS), "--runs", "1", "--warmups", "0", lengths="131072"),
    _bench("first-token-7b", "first-token", "--architecture", "7b", needs="cuda"),
    Part("wrapper", _wrapper(SHORT, 1000), _wrapper("128", 4), needs="slot-model"),
    _almanac("facts", *FACTS),
    _almanac("almanac-in", "--split", "in", systems=(*ANSWERING, "pooled/unfold=256", "pooled/doubt=256")),
    _almanac("almanac-out", "--split", "out"),
    _almanac("longer", *FACTS, systems=("full", "pooled:16", "retrieval"), lengths="1024,4096,8192"),
    _eval(
        "selection",
        "almanac",
        "--split",
        "in",
        *_systems("full", *_selections()),
        lengths="256,512",
        size=_questions(240),
    ),
    _eval("blocks", "almanac", *FACTS, *_systems("full", *BLOCKS), lengths=SHORT, size=_questions(240)),
    Part("ruler-hqa", RULER, {"gate": _ruler("1024,2048", 8, *QUICK, per_document=4)}),
    Part("longest", LONGEST, {"longest": _ruler("1024,2048", 8, "full", SLOTS, *BESIDE, per_document=4)}),
    Part("notes", {"notes": _ruler("7168", 32, *NOTES)}, {"notes": _ruler("1024", 4, *NOTES[:2], per_document=4)}),
    _eval("fidelity", "fidelity", *_systems("pooled:16"), lengths="64,256,512,2048", size=_questions(180), quick=3),
    _eval("reconstruction", *RECONSTRUCTION, lengths="256,512,1024,2048", size=_questions(80)),
    _haystack("needle", lengths=NEEDLE, quick=22),
    _haystack("multihop", "--kind", "two-hop", lengths=MULTIHOP),
    _eval("strings", "strings", lengths="1024,4096,16384", size=_questions(600), quick=8),
    Part("trust", {"trust": _questions(500)}, {"trust": _questions(4)}, script="trust.py"),
)
BY_NAME = {part.name: part for part in PARTS}
