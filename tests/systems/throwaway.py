"""A system of key/value blocks with a gate, two adapters and a head; docs/add-a-system.md shows the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers.cache_utils import DynamicCache

from memfold.backbone.adapters import add_role
from memfold.backbone.model import Backbone
from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Document, chunks
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, final_answer
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import AnswerSteps, Capabilities, HeadOutput, MemorySystem, Prefix, Rendered, ask, ask_all
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    HeadScore,
    Memory,
    Reply,
    Sample,
    Step,
    TemplatePart,
    Text,
    Trace,
)
from memfold.systems.shared.replies import written_reply

WRITER, GATE = "writer", "gate"  # the adapters
TARGETS = {WRITER: ("k_proj", "v_proj"), GATE: ("q_proj", "v_proj")}


@dataclass(frozen=True)
class GatedFold:
    """Every `stride`-th token of a chunk leaves its keys and values."""

    chunk: int = 32
    stride: int = 4


@dataclass(frozen=True)
class GatedRead(ReadSettings):
    """Blocks with a score above `threshold` are read; the best one always is."""

    threshold: float = 0.0


class Gated(MemorySystem[GatedFold, GatedRead, TrainSettings]):
    """A gate scores every block in view of the question; the answer is read from those that it opens."""

    name = "gated"
    groups = (GatedFold, GatedRead, TrainSettings)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(slots=True)

    @property
    def ratio(self) -> int:
        return self.fold.stride

    @property
    def fixed(self) -> dict[str, Any]:
        return {"stride": self.fold.stride}

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """None: which blocks are read depends on the question."""

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        backbone = model.weights()
        for source, document in enumerate(documents):
            for number, chunk in enumerate(chunks(document, backbone.tokenize, self.fold.chunk)):
                if number < done:
                    continue
                with backbone.adapter(WRITER):  # never across a yield: the caller would run with it
                    output = backbone.forward(backbone.embed(chunk.tokens)[None], cache=DynamicCache())
                layers = [torch.stack([layer.keys, layer.values]) for layer in output.past_key_values.layers]
                states = torch.stack(layers)[:, :, 0, :, :: self.fold.stride]  # [layers, 2, heads, n, size]
                yield Block(
                    index=chunk.index,
                    source=source,
                    token_start=chunk.token_start,
                    token_end=chunk.token_end,
                    char_start=chunk.char_start,
                    char_end=chunk.char_end,
                    slots=states.permute(3, 0, 1, 2, 4).flatten(1),  # [n, d]: what a memory file stores
                    text=chunk.text,
                )

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        blocks = [BlockRef(memory.name, block.index) for block in memory.blocks]
        replies = yield from ask_all([self._gate(block, question) for block in blocks])
        scores = [reply.score or 0.0 for reply in replies]
        opened = [
            block
            for block, score in zip(blocks, scores, strict=True)
            if score > self.read.threshold or score == max(scores)
        ]
        reply = yield from ask(self._reading(opened, question, self.read.style))
        return Answer(final_answer(reply.text, self.read.style), reply.text)

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        backbone, builder = model.weights(), SequenceBuilder()
        indices = tuple(part.index for part in call.parts if isinstance(part, BlockRef))
        prefix = memory.cached(indices, lambda: self._prefix([memory.blocks[index] for index in indices], backbone))
        builder.next = prefix.length
        for tokens in backbone.prompt(call.parts, self.read.chat_template):
            builder.text(tokens)
            builder.end_part()
        return builder.rendered(prefix, call.adapter)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        parts = list(chunks(sample.document, model.tokenize, self.fold.chunk))
        blocks = [BlockRef(sample.document.source, chunk.index) for chunk in parts]
        text = "".join(model.decode(chunk.tokens) for chunk in parts)
        wanted = [text.find(answer) for answer in sample.answers]
        ends = [len("".join(model.decode(chunk.tokens) for chunk in parts[: index + 1])) for index in range(len(parts))]
        labels = [
            float(any(start <= place < end for place in wanted)) for start, end in zip([0, *ends], ends, strict=False)
        ]
        steps = [
            Step(self._gate(block, sample.question), Reply(score=label))
            for block, label in zip(blocks, labels, strict=True)
        ]
        opened = [block for block, label in zip(blocks, labels, strict=True) if label] or blocks[:1]
        reply = Reply(tokens=(*written_reply(sample, model, style), model.end_token))
        steps.append(Step(self._reading(opened, sample.question, style), reply))
        return Trace(sample.question, self.name, self.settings, tuple(steps))

    def prepare(self, backbone: Backbone) -> None:
        backbone.model.requires_grad_(False)
        for seed, (role, targets) in enumerate(TARGETS.items()):
            add_role(backbone, role, rank=4, alpha=8.0, targets=targets, seed=seed)
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        if self.name not in backbone.heads:
            head = nn.Linear(backbone.hidden_size, 1)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            backbone.heads[self.name] = head.to(backbone.device)

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        head = nn.Linear(tensors["weight"].shape[1], 1)
        head.load_state_dict(dict(tensors))
        return head

    def losses(self, outputs: Sequence[HeadOutput]) -> dict[str, Tensor]:
        """Was a block worth opening?  A written trace says so; of a sampled one, the reward does."""
        if not outputs:
            return {}
        labels = [output.step.reply.score if output.trace.reward is None else output.trace.reward for output in outputs]
        scores = torch.stack([output.score for output in outputs])
        return {"gate": binary_cross_entropy_with_logits(scores, scores.new_tensor(labels))}

    def _gate(self, block: BlockRef, question: str) -> Call:
        return Call("gate", (block, Text(f"\n{question}\nRead?")), HeadScore(self.name), adapter=GATE)

    def _reading(self, blocks: Sequence[BlockRef], question: str, style: Style) -> Call:
        end = Text(after_memory(self.read.chat_template, question, style))
        return Call("answer", (*blocks, end, TemplatePart("after")), Generate(self.read.sampling()))

    def _prefix(self, blocks: Sequence[Block], backbone: Backbone) -> Prefix:
        """The keys and values of some blocks, one after another."""
        config = backbone.model.config
        shape = (config.num_hidden_layers, 2, config.num_key_value_heads, config.head_dim)
        slots = torch.cat([block.slots for block in blocks if block.slots is not None]).to(backbone.dtype)
        states = slots.view(-1, *shape).permute(1, 2, 3, 0, 4)
        return Prefix(tuple((keys, values) for keys, values in states))
