import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.scheduler import answer
from memfold.core.types import BlockRef, Call, Memory, Text
from memfold.evaluation import folding
from memfold.evaluation.folding import Folding, slot_bytes
from memfold.evaluation.runner import Evaluation, run
from memfold.memory.combine import splice
from memfold.systems.shared.folding import fold

Evaluate = Callable[..., Evaluation]
TEXT = "Ada was born in the town of Velm. Lor met Ada there, and they went to the sea. Nobody else came. " * 4


def cut(backbone: Backbone, window: int) -> list[Document]:
    """The text in four pieces that end with a window, each with the tokens that it has in the whole."""
    tokens, offsets = backbone.tokenize(TEXT)
    places = [offsets[start][0] for start in range(window, len(tokens), window)]
    kept = [place for place in places if backbone.encode(TEXT[:place]) + backbone.encode(TEXT[place:]) == tokens]
    ends = [0, *kept[1:10:3][:3], len(TEXT)]
    return [Document(f"piece-{end}", text=TEXT[start:end]) for start, end in pairwise(ends)]


def call(memory: Memory) -> Call:
    return Call("answer", (*(BlockRef(memory.name, block.index) for block in memory.blocks), Text("Who?")))


@pytest.mark.parametrize(
    ("label", "window"),
    [
        ("pooled:4", 4),
        ("pooled:4/positions=strided/wrapper=span", 4),
        ("pooled:4/wrapper=slot", 4),
        ("pooled:4/window=16", 16),
        ("pooled:4/window=16/mask=bidirectional", 16),
    ],
)
def test_splicing_equals_folding_the_whole_text_at_borders_of_windows(
    evaluate: Evaluate, label: str, window: int
) -> None:
    evaluation = evaluate(label)
    system, backbone = evaluation.candidates[0].system, evaluation.model
    (whole,) = fold(system, [Document("whole", text=TEXT)], backbone)
    spliced = splice("whole", fold(system, cut(backbone, window), backbone))
    assert len(spliced.blocks) == 4
    assert (spliced.name, spliced.sources, spliced.token_count) == (whole.name, whole.sources, whole.token_count)
    starts = [block.token_start + 4 * slot for block in spliced.blocks for slot in range(block.slot_count)]
    assert starts == list(range(0, whole.token_count, 4)), "the groups are those of the whole"
    assert len(starts) == whole.slot_count
    for block in spliced.blocks:
        assert TEXT[block.char_start : block.char_end] == block.text
    one, other = (system.render(memory, call(memory), backbone) for memory in (whole, spliced))
    assert (one.tokens, one.positions, one.memory_positions) == (other.tokens, other.positions, other.memory_positions)
    assert one.slots is not None
    assert other.slots is not None
    torch.testing.assert_close(one.slots, other.slots)


def test_only_what_goes_together_is_spliced(evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match="no pieces"):
        splice("whole", [])
    evaluation = evaluate("pooled:4", "pooled:16")
    piece = [Document("piece", text=TEXT)]
    memories = [fold(candidate.system, piece, evaluation.model)[0] for candidate in evaluation.candidates]
    with pytest.raises(DataError, match="ratio"):
        splice("whole", memories)


def test_without_cases_nothing_is_folded(evaluate: Evaluate) -> None:
    evaluation = evaluate("pooled:4")
    assert Folding(evaluation.candidates[0].system, evaluation.model).memories([]) == {}


def test_a_document_is_folded_once_for_those_that_only_read_differently(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = ("pooled:4", "pooled:4/unfold=64", "pooled:16", "retrieval", "full")
    evaluation = evaluate(*labels, lengths=(160,), questions=2, splits=("in",))
    made: list[str] = []
    plain = folding.fold

    def watched(system: Any, documents: Any, model: Any) -> Any:
        made.extend(f"{system.name}:{system.ratio}" for _ in documents)
        return plain(system, documents, model)

    monkeypatch.setattr(folding, "fold", watched)
    records = run(evaluation, tmp_path)
    assert Counter(made) == {"pooled:4": 2, "pooled:16": 2, "retrieval:None": 2, "full:None": 2}
    seconds = {(record.system, record.case): record.cost.fold_seconds for record in records}
    for case in {record.case for record in records}:
        assert seconds["pooled:4", case] == seconds["pooled:4/unfold=64", case]


@pytest.mark.parametrize("label", ["kvbank/chunk=16", "pooled:4", "retrieval"])
def test_slots_that_would_fill_the_main_memory_are_mapped_from_a_file(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, label: str
) -> None:
    evaluation = evaluate(label, lengths=(160,), questions=2, splits=("in",))
    system, model = evaluation.candidates[0].system, evaluation.model
    cases = list(evaluation.suite.cases(evaluation.options, model))
    kept = Folding(system, model).memories(cases)
    size = slot_bytes(system, model, 320)
    assert size == 320 // (system.ratio or 1) * (system.slot_size(model) or 0) * 4
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folding, "IN_MEMORY", size)
    assert Folding(system, model).memories(cases)[cases[0].seed].blocks[0].stored is None, "they fit"
    monkeypatch.setattr(folding, "IN_MEMORY", size - 1)
    mapped = Folding(system, model).memories(cases)
    assert mapped.keys() == kept.keys()
    for seed, memory in mapped.items():
        assert memory.name == kept[seed].name
        assert memory.sources == kept[seed].sources
        for block, other in zip(memory.blocks, kept[seed].blocks, strict=True):
            assert (block.read(), block.char_start, block.token_end) == (
                other.read(),
                other.char_start,
                other.token_end,
            )
            if other.slots is not None:
                assert block.slots is not None
                assert torch.equal(block.slots, other.slots.to(torch.bfloat16))
    assert not list(tmp_path.iterdir()), "the file has no name any more"
    (job, *_) = [evaluation.suite.job(evaluation.candidates[0], case, mapped[case.seed], model) for case in cases]
    assert answer(job, LocalPolicy(model)).failure is None
