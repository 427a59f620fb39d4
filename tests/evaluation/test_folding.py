from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.types import BlockRef, Call, Memory, Text
from memfold.evaluation.folding import Folding
from memfold.evaluation.runner import Evaluation
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
