"""The KV memory bank: what its blocks hold, which calls its gate and reasoner make, and what training reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_policy import ScriptedPolicy
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.score import logprobs
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.core.job import Job
from memfold.core.prompt import ABSENT
from memfold.core.scheduler import answer
from memfold.core.types import BlockRef, Call, HeadScore, Likelihood, Memory, Reply, Step, TemplatePart, Text, Trace
from memfold.systems.full.system import Full
from memfold.systems.kvbank import selection
from memfold.systems.kvbank.blocks import from_slots, shape_of, to_slots
from memfold.systems.kvbank.compressor import compress_chunks, interleaved
from memfold.systems.kvbank.gate import head_call
from memfold.systems.kvbank.projections import at_memory_tokens
from memfold.systems.kvbank.rotation import rotation_of, run
from memfold.systems.kvbank.settings import COMPRESSOR, GATE, HEAD, REASONER, KvbankFold
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions

MakeBackbone = Callable[..., Backbone]
TEXT = "Ada was born in Velm. The mill of Tor stands by the river. Bel has 41 sheep, and a boat. " * 3
QUESTION = "Where was Ada born?"
TOKENS = (40, 41, 7, 9, 300, 12, 13, 14, 90, 3, 8)


def bank(text: str, backbone: Backbone, **settings: object) -> tuple[Kvbank, Memory]:
    system = Kvbank.of({"chunk": 32, "note": 8, "style": "bare"} | settings)
    (memory,) = fold(system, [Document("a", text=text)], backbone)
    return system, memory


def slots(memory: Memory) -> Tensor:
    return torch.cat([block.slots for block in memory.blocks if block.slots is not None])


# --- blocks


@pytest.mark.parametrize(
    ("settings", "rule", "length"),
    [
        ({"compressor": "trained"}, "slots", 5),
        ({"compressor": "norm"}, "original", 17),
        ({"compressor": "norm", "positions": "slots"}, "slots", 5),
        ({"compressor": "trained", "positions": "original"}, "original", 17 + 5),
        ({"compressor": "norm", "positions": "unrotated"}, "unrotated", 64),
    ],
)
def test_keys_stay_where_they_were_if_nothing_was_trained(settings: dict[str, Any], rule: str, length: int) -> None:
    """Unless the rule is set; a block of 17 tokens at ratio 4 takes as many positions as its keys span."""
    fold = Kvbank.of({"ratio": 4, "chunk": 256, **settings}).fold
    assert (fold.positions, fold.length(17)) == (rule, length)


@pytest.mark.parametrize("positions", ["slots", "original"])
def test_a_block_at_ratio_1_is_the_text(any_backbone: Backbone, positions: str) -> None:
    """The same reply, token by token, and the same log-probabilities as with the text itself."""
    system, memory = bank(TEXT, any_backbone, ratio=1, reading="block", positions=positions, chunk=512)
    full = Full.of({"style": "bare"})
    (text,) = fold(full, [Document("a", text=TEXT)], any_backbone)
    policy = LocalPolicy(any_backbone)
    ours, theirs = answer(Job(system, memory, QUESTION), policy), answer(Job(full, text, QUESTION), policy)
    assert ours.steps[-1].reply.tokens == theirs.steps[-1].reply.tokens
    assert ours.steps[-1].reply.logprobs == pytest.approx(theirs.steps[-1].reply.logprobs, abs=1e-4)


def test_keys_do_not_depend_on_their_place(any_backbone: Backbone) -> None:
    """Undone and rotated again, keys equal those of a pass at the new positions, at every layer."""
    rotation = rotation_of(any_backbone)
    embeddings = any_backbone.embed(TOKENS)[None]
    here, there = torch.arange(len(TOKENS)), torch.arange(len(TOKENS)) + 23
    moved = [rotation.rotate(rotation.undo(keys[0], here), there) for keys, _ in run(any_backbone, embeddings, here)]
    for keys, (expected, _) in zip(moved, run(any_backbone, embeddings, there), strict=True):
        assert torch.allclose(keys, expected[0], atol=1e-4)


def test_slots_hold_all_layers_and_heads(backbone: Backbone) -> None:
    shape = shape_of(backbone)
    layers = [(torch.randn(shape.heads, 5, shape.size), torch.randn(shape.heads, 5, shape.size)) for _ in range(2)]
    packed = to_slots(layers)
    assert packed.shape == (5, shape.values) == (5, Kvbank().slot_size(backbone))
    for pair, other in zip(layers, from_slots(packed, shape), strict=True):
        assert torch.equal(pair[0], other[0])
        assert torch.equal(pair[1], other[1])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(sliding_window=8), "a sliding window"),
        (GPT2Config(), "no rotary embedding"),
    ],
)
def test_attention_that_cannot_be_moved_is_refused(backbone: Backbone, config: object, reason: str) -> None:
    small = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "intermediate_size": 32, "head_dim": 8}
    for name, value in small.items():
        if hasattr(config, name):
            setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config).eval()
    other = Backbone("other", model, backbone.tokenizer)
    with pytest.raises(ConfigError, match=f"not possible with model 'other'.*{reason}.*retrieval"):
        bank(TEXT, other)


# --- the trained compressor


def test_a_memory_token_stands_after_every_group() -> None:
    assert interleaved([1, 2, 3, 4, 5], 2) == [1, 2, -1, 3, 4, -1, 5, -1]


@pytest.mark.parametrize("window", [0, 4])
def test_chunks_of_a_batch_are_those_compressed_alone(trained: Backbone, window: int) -> None:
    """Padding of shorter chunks changes nothing; later windows see only memory tokens of earlier ones."""
    settings = KvbankFold(ratio=2, compressor="trained", window=window)
    rotation = rotation_of(trained)
    parts: list[Sequence[int]] = [TOKENS, TOKENS[:4], TOKENS[2:9]]
    with torch.no_grad():
        together = compress_chunks(trained, parts, [0], settings, rotation)
        for part, block in zip(parts, together, strict=True):
            (alone,) = compress_chunks(trained, [part], [0], settings, rotation)
            assert len(block) == math.ceil(len(part) / 2)
            assert torch.allclose(block, alone, atol=1e-4)


def test_windows_carry_memory_tokens_and_no_text(trained: Backbone) -> None:
    """A change of the text of the first window reaches the second window's slots only through memory tokens."""
    settings = KvbankFold(ratio=2, compressor="trained", window=4)
    rotation = rotation_of(trained)
    with torch.no_grad():
        (first,) = compress_chunks(trained, [TOKENS[:4]], [0], settings, rotation)
        (both,) = compress_chunks(trained, [TOKENS[:8]], [0], settings, rotation)
        (alone,) = compress_chunks(trained, [TOKENS[4:8]], [0], settings, rotation)
    assert torch.allclose(both[:2], first, atol=1e-4)
    assert not torch.allclose(both[2:], alone, atol=1e-2)


def test_only_the_compressors_adapter_makes_the_block(trained: Backbone) -> None:
    """Adapters do not leak: slots are the same whatever was active before, and the base computes what it did."""
    rotation = rotation_of(trained)
    settings = KvbankFold(ratio=2, compressor="trained")
    embeddings, places = trained.embed(TOKENS)[None], torch.arange(len(TOKENS))
    with torch.no_grad():
        before = run(trained, embeddings, places)
        (block,) = compress_chunks(trained, [TOKENS], [0], settings, rotation)
        with trained.adapter(REASONER):
            (other,) = compress_chunks(trained, [TOKENS], [0], settings, rotation)
        after = run(trained, embeddings, places)
    assert torch.equal(block, other)
    assert all(torch.equal(pair[0], same[0]) for pair, same in zip(before, after, strict=True))


@pytest.fixture
def projecting(new_backbone: MakeBackbone) -> Backbone:
    """A model whose memory tokens have projections of their own, which begin as those of the model."""
    backbone = new_backbone("qwen2")
    backbone.heads.clear()
    Kvbank.of({"compressor_rank": 4, "projections": ("q", "k", "v", "o")}).prepare(backbone)
    torch.nn.init.normal_(backbone.heads[HEAD].token)  # type: ignore[arg-type]  # that of the end token is zero here
    return backbone


def test_projections_of_memory_tokens_begin_as_the_models(projecting: Backbone, new_backbone: MakeBackbone) -> None:
    settings, rotation = KvbankFold(ratio=2, compressor="trained"), rotation_of(projecting)
    plain = new_backbone("qwen2")
    plain.heads.clear()
    Kvbank.of({"compressor_rank": 4}).prepare(plain)
    plain.heads[HEAD].token = projecting.heads[HEAD].token
    with torch.no_grad():
        (own,) = compress_chunks(projecting, [TOKENS], [0], settings, rotation)
        (models,) = compress_chunks(plain, [TOKENS], [0], settings, rotation_of(plain))
    assert torch.allclose(own, models, atol=1e-5)


@pytest.mark.parametrize("letter", ["q", "k", "v", "o"])
def test_projections_act_at_memory_tokens_alone(projecting: Backbone, letter: str) -> None:
    """Text before the first memory token is computed bit for bit as by the model, and so is everything afterwards."""
    own: Any = projecting.heads[HEAD].own
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    memory, places = torch.tensor([[False, False, False, True, False, False]]), torch.arange(6)
    embeddings = projecting.embed_rows(ids, [])
    with torch.no_grad():
        usual = run(projecting, embeddings, places)
        torch.nn.init.normal_(own[letter][0].weight)
        with at_memory_tokens(projecting, own, memory):
            changed = run(projecting, embeddings, places)
        after = run(projecting, embeddings, places)
    moved = [(keys - same).abs().amax((0, 1, 3)) for (keys, _), (same, _) in zip(changed, usual, strict=True)]
    assert all(float(layer[:3].max()) == 0 for layer in moved), "causal attention sees no later token"
    assert bool(moved[0][3] > 1e-3) is (letter == "k"), "keys of the first layer"
    assert float(moved[1][3]) > 1e-3, "whatever changes in the first layer reaches the second"
    assert all(torch.equal(keys, same) for (keys, _), (same, _) in zip(after, usual, strict=True))


def test_projections_learn_and_are_kept(projecting: Backbone, tmp_path: Path) -> None:
    settings, rotation = KvbankFold(ratio=2, compressor="trained"), rotation_of(projecting)
    (block,) = compress_chunks(projecting, [TOKENS], [0], settings, rotation)
    block.square().sum().backward()
    own: Any = projecting.heads[HEAD].own
    for letter in ("k", "v"):
        assert all(layer.weight.grad.abs().sum() > 0 for layer in own[letter])
    for letter in ("q", "o"):  # those of the last layer have no part in keys and values
        assert own[letter][0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        own["v"][1].bias.add_(1.0)
        (block,) = compress_chunks(projecting, [TOKENS], [0], settings, rotation)
    save_backbone(projecting, tmp_path)
    again = load_backbone(tmp_path)
    with torch.no_grad():
        (same,) = compress_chunks(again, [TOKENS], [0], settings, rotation_of(again))
    assert torch.equal(block, same)


def test_a_block_that_comes_first_is_read_at_the_end_of_a_chunk(trained: Backbone) -> None:
    """As the public release reads it: the whole prompt after the block, keys unrotated, whatever the block's length."""
    system, memory = bank(TEXT, trained, ratio=4, positions="unrotated", opening=False, adapters=False)
    call = system._direct("a", len(memory.blocks) - 1, QUESTION, "bare")
    assert [type(part) for part in call.parts] == [BlockRef, TemplatePart, Text, TemplatePart]
    rendered = system.render(memory, call, trained)
    assert memory.blocks[-1].slot_count < 8
    assert rendered.positions[0] == 8, "the slots of a chunk of 32 tokens"
    assert rendered.prefix is not None
    assert rendered.prefix.length == memory.blocks[-1].slot_count
    assert torch.equal(
        rendered.prefix.layers[0][0],
        from_slots(slots(memory), shape_of(trained))[0][0][:, -memory.blocks[-1].slot_count :],
    )
    assert (call.adapter, system._update("a", 0, QUESTION, "", 8).adapter) == (None, None)


def test_a_model_without_training_has_no_trained_compressor(backbone: Backbone) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter|no trained compressor"):
        bank(TEXT, backbone, compressor="trained")


def test_a_reply_trains_the_compressor_through_the_block(trained: Backbone) -> None:
    """The gradient of an update token's log-probability reaches the compressor, unless the memory is constant."""
    system = Kvbank.of({"compressor": "trained", "chunk": 512, "note": 8, "ratio": 2})
    document = Document("a", text=TEXT)
    call = Call("update", (BlockRef("a", 0), Text("\nNote:")), adapter=REASONER)
    trace = Trace("q", "kvbank", system.settings, (Step(call, Reply(tokens=(40, 41))),))
    # what comes after the keys and values of the last layer has no part in a block
    weights = {
        name: weight
        for name, weight in trained.parameters()
        if (f".{COMPRESSOR}." in name and (".layers.0." in name or "k_proj" in name or "v_proj" in name))
        or name.endswith("token")
    }
    found = {}
    for folded in (False, True):
        trained.model.zero_grad()
        trained.heads.zero_grad()
        scores = logprobs(trained, system, [(document, [trace])], folded=folded)
        scores.backward(-scores.logprobs.sum())
        found[folded] = {name: weight.grad for name, weight in weights.items()}
    assert f"heads.{HEAD}.token" in found[False]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found[False].values())
    assert all(gradient is None or not gradient.abs().sum() for gradient in found[True].values())


def test_the_gradient_is_that_of_finite_differences(trained: Backbone) -> None:
    system = Kvbank.of({"compressor": "trained", "chunk": 512, "ratio": 2})
    document = Document("a", text=TEXT[:60])
    call = Call("update", (BlockRef("a", 0), Text("\nNote:")), adapter=REASONER)
    trace = Trace("q", "kvbank", system.settings, (Step(call, Reply(tokens=(40, 41, 7))),))
    token = trained.heads[HEAD].token  # type: ignore[union-attr]
    direction = torch.randn(len(token), generator=torch.Generator().manual_seed(0))
    trained.heads.zero_grad()
    scores = logprobs(trained, system, [(document, [trace])])
    scores.backward(scores.logprobs.sum())
    step = 1e-2
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            token += sign * step * direction  # type: ignore[operator]
            values.append(float(logprobs(trained, system, [(document, [trace])]).logprobs.sum()))
            token -= sign * step * direction  # type: ignore[operator]
    assert float(token.grad @ direction) == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.05)  # type: ignore[union-attr,operator]


# --- compressors without training


def observed(backbone: Backbone) -> selection.Observed:
    with torch.no_grad():
        return selection._observe(backbone, TOKENS, [0], rotation_of(backbone))


def kept_values(backbone: Backbone, method: str, ratio: int) -> tuple[Tensor, Tensor]:
    """The values of a block and those of the chunk, of the first layer and head."""
    settings = KvbankFold(ratio=ratio, compressor=method)  # type: ignore[arg-type]
    block = selection.select(backbone, TOKENS, [0], settings, rotation_of(backbone))
    return from_slots(block, shape_of(backbone))[0][1][0], observed(backbone).cache[0][1][0][1:]


def test_the_last_tokens_are_kept_in_order(backbone: Backbone) -> None:
    kept, values = kept_values(backbone, "recent", 3)
    assert torch.equal(kept, values[-4:])


def test_the_smallest_keys_are_kept_in_order(new_backbone: MakeBackbone) -> None:
    """A model that does not normalise its keys."""
    llama = new_backbone("llama")
    kept, values = kept_values(llama, "norm", 3)
    sizes = observed(llama).cache[0][0][0][1:].norm(dim=-1)
    assert torch.equal(kept, values[sizes.argsort()[:4].sort().values])


def test_what_the_model_looks_at_while_it_repeats_the_text_is_kept(backbone: Backbone) -> None:
    """Scores are the largest attention weights of a full pass over the chunk and its repetition."""
    with torch.no_grad():
        scores = selection.reconstruction(observed(backbone))
        request = backbone.encode(selection.REPEAT)
        ids = torch.tensor([[0, *TOKENS, *request, *TOKENS]])
        backbone.model.set_attn_implementation("eager")
        output = backbone.model.base_model(ids, output_attentions=True)
        backbone.model.set_attn_implementation("sdpa")
    count = len(TOKENS)
    for layer, weights in enumerate(output.attentions):
        received = weights[0, :, 1 + count :, 1 : 1 + count].amax(1)
        assert torch.allclose(scores[layer], received.view(2, 2, count).amax(1), atol=1e-5)


def test_expected_attention_is_that_of_sampled_queries(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "AHEAD", 1)
    seen = observed(backbone)
    with torch.no_grad():
        scores = selection.expected(seen)[1]
        rotation, place = rotation_of(backbone), torch.tensor([1 + len(TOKENS)])
        queries = selection._queries(backbone, 1, seen.states[1][1:])
        keys, values = seen.cache[1][0][:, 1:], seen.cache[1][1][:, 1:]
        sampled = []
        for head, each in enumerate(queries):
            spread = torch.cov(each.T, correction=0) + 1e-6 * torch.eye(each.shape[1])
            torch.manual_seed(head)
            made = torch.distributions.MultivariateNormal(each.mean(0), spread).sample((200_000,))
            turned = rotation.rotate(made[:, None], place)[:, 0]
            weights = (turned @ keys[head // 2].T / math.sqrt(each.shape[1])).exp().mean(0)
            sampled.append(weights / weights.sum())
    expected = torch.stack(sampled).view(2, 2, -1).mean(1) * values.norm(dim=-1)
    assert torch.allclose(scores, expected, rtol=0.1)


@pytest.mark.parametrize("method", list(selection.SCORES))
def test_every_method_keeps_as_many_pairs_as_the_ratio_says(any_backbone: Backbone, method: str) -> None:
    system, memory = bank(TEXT, any_backbone, ratio=4, compressor=method)
    system.check_memory(memory)
    assert [block.slot_count for block in memory.blocks] == [math.ceil(b.token_count / 4) for b in memory.blocks]
    _, again = bank(TEXT, any_backbone, ratio=4, compressor=method)
    assert torch.equal(slots(memory), slots(again))


# --- gate and reasoner


def scores_by_block(*values: float) -> Callable[[Call], Reply | str]:
    """Gate scores by block as logits; notes are `note 1`, `note 2`, ..."""
    notes: list[str] = []

    def reply(call: Call) -> Reply | str:
        if isinstance(call.wants, HeadScore):
            (block,) = (part.index for part in call.parts if isinstance(part, BlockRef))
            return Reply(score=values[block])
        if call.purpose == "update":
            notes.append(f"note {len(notes) + 1}")
            return notes[-1]
        return "Velm"

    return reply


def asked(reply: Callable[[Call], Reply | str], memory: Memory, **settings: object) -> tuple[Trace, list[Call]]:
    policy = ScriptedPolicy(reply)
    system = Kvbank.of({"chunk": 32, "style": "bare"} | settings)
    trace = answer(Job(system, memory, QUESTION), policy)
    assert trace.failure is None, trace.failure
    return trace, policy.calls


def block_of(call: Call) -> int:
    (index,) = (part.index for part in call.parts if isinstance(part, BlockRef))
    return index


def text_of(call: Call) -> str:
    return "".join(part.text for part in call.parts if isinstance(part, Text))


@pytest.fixture(scope="module")
def memory(backbone: Backbone) -> Memory:
    _, made = bank(TEXT * 2, backbone, compressor="recent")
    assert len(made.blocks) > 4
    return made


def test_a_call_for_each_opened_block_and_one_for_the_answer(memory: Memory) -> None:
    count = len(memory.blocks)
    opened = {1, 3}
    logits = [2.0 if number in opened else -2.0 for number in range(count)]
    trace, calls = asked(scores_by_block(*logits), memory, gate="head")
    generated = [call for call in calls if not isinstance(call.wants, HeadScore)]
    assert [call.purpose for call in generated] == ["update", "update", "answer"]
    assert [block_of(call) for call in generated[:2]] == sorted(opened)
    assert "note 1" in text_of(generated[1])
    assert "note 2" in text_of(generated[2])
    assert not any(isinstance(part, BlockRef) for part in generated[2].parts)
    assert trace.answer is not None
    assert trace.answer.text == "Velm"


def test_every_block_is_decided_in_view_of_the_note_at_that_time(memory: Memory) -> None:
    logits = [2.0 if number == 1 else -2.0 for number in range(len(memory.blocks))]
    _, calls = asked(scores_by_block(*logits), memory, gate="head")
    last = {block_of(call): call for call in calls if isinstance(call.wants, HeadScore)}
    assert sorted(last) == list(range(len(memory.blocks)))
    assert [("note 1" in text_of(last[number])) for number in sorted(last)] == [
        number > 1 for number in range(len(memory.blocks))
    ]
    assert all(call.adapter == GATE for call in last.values())


def test_closed_blocks_are_scored_together(memory: Memory) -> None:
    policy = ScriptedPolicy(scores_by_block(*[-2.0] * len(memory.blocks)))
    system = Kvbank.of({"chunk": 32, "gate": "head", "ahead": 2})
    answer(Job(system, memory, QUESTION), policy)
    sizes = [len(batch) for batch in policy.batches if batch]
    assert sizes[:2] == [1, 2]
    assert max(sizes) == 2
    assert sum(sizes) == len(memory.blocks)


def test_published_weights_are_asked_in_the_order_of_their_prompts(memory: Memory) -> None:
    _, calls = asked(lambda call: "a note", memory, gate="open", most=2, prompts="tagged")
    assert text_of(calls[1]).endswith(
        f"<problem>\n{QUESTION}\n</problem>\n\n<memory>\na note\n</memory>\n\nNew memory:\n"
    )
    assert text_of(calls[2]).startswith("Solve the problem")
    assert text_of(calls[2]).endswith("<memory>\na note\n</memory>\n\nAnswer:\n")


def test_a_second_pass_sees_the_blocks_that_were_closed_under_another_note(memory: Memory) -> None:
    """Block 0 matters only once the note of block 2 is known; blocks after 2 were judged with that note."""

    def reply(call: Call) -> Reply | str:
        if not isinstance(call.wants, HeadScore):
            return "bridge" if call.purpose == "update" and block_of(call) == 2 else "all of it"
        opens = block_of(call) == 2 or (block_of(call) == 0 and "bridge" in text_of(call))
        return Reply(score=2.0 if opens else -2.0)

    once, calls = asked(reply, memory, gate="head", style="bare")
    assert [block_of(call) for call in calls if call.purpose == "update"] == [2]
    twice, more = asked(reply, memory, gate="head", style="bare", passes=2)
    assert [block_of(call) for call in more if call.purpose == "update"] == [2, 0]
    again = [block_of(call) for call in more[len(calls) - 1 :] if isinstance(call.wants, HeadScore)]
    assert again[:2] == [0, 1]
    assert 2 not in again
    assert [len(trace.steps) for trace in (once, twice)] == [len(calls), len(more)]


def test_a_second_pass_stops_where_the_note_is_unchanged(memory: Memory) -> None:
    scores = scores_by_block(*[-2.0] * len(memory.blocks))
    assert asked(scores, memory, gate="head", passes=3)[1] == asked(scores, memory, gate="head")[1]


def test_the_gate_sees_the_candidates_of_question_and_note(backbone: Backbone) -> None:
    """The question shares words with the first block alone, the note with the third."""
    sentences = ("Ada was born in the house of Lor. ", "Bel has a boat. ", "Lor lives near the sea. ", "Tor is old. ")
    chunk = max(len(backbone.encode(each)) for each in sentences) + 1
    _, memory = bank("".join(sentences), backbone, compressor="recent", chunk=chunk, borders="sentence")
    texts = [block.read() or "" for block in memory.blocks]
    first, third = ([word in text for text in texts].index(True) for word in ("Ada", "lives"))
    assert first != third

    def seen(**read: object) -> list[int]:
        def reply(call: Call) -> Reply | str:
            return Reply(score=2.0) if isinstance(call.wants, HeadScore) else "Lor"

        calls = asked(reply, memory, gate="head", **read)[1]
        return [block_of(call) for call in calls if isinstance(call.wants, HeadScore)]

    assert seen() == list(range(len(texts)))
    assert seen(candidates=1) == [first]
    assert seen(candidates=2, passes=2) == [first, third]
    bm25 = asked(lambda call: "Lor", memory, gate="bm25", most=2, passes=2)[1]
    assert [block_of(call) for call in bm25 if call.purpose == "update"] == [first, third]


def test_the_best_block_is_opened_first_and_scored_again_only_with_another_note(memory: Memory) -> None:
    """Block 3 is best for an empty note; with what it says, block 1 is; then none is."""
    notes = {3: "bridge", 1: "bridge and end", 0: "bridge"}

    def reply(call: Call) -> Reply | str:
        if not isinstance(call.wants, HeadScore):
            return notes[block_of(call)] if call.purpose == "update" else "Velm"
        note = "end" if "end" in text_of(call) else "bridge" if "bridge" in text_of(call) else ""
        best = {"": {3: 2.0, 0: 1.0}, "bridge": {1: 2.0, 0: 3.0}}.get(note, {})
        return Reply(score=best.get(block_of(call), -2.0))

    trace, calls = asked(reply, memory, gate="head", order="best")
    assert [block_of(call) for call in calls if call.purpose == "update"] == [3, 0, 1]
    gates = [call for call in calls if isinstance(call.wants, HeadScore)]
    count = len(memory.blocks)
    assert len(gates) == count + (count - 1) + (count - 3), "block 0 left the note as it was"
    assert trace.answer is not None
    assert trace.answer.text == "Velm"
    limited = asked(reply, memory, gate="head", order="best", most=1)[1]
    assert [block_of(call) for call in limited if call.purpose == "update"] == [3]
    none = asked(lambda call: Reply(score=-2.0), memory, gate="head", order="best")[0]
    assert none.answer is not None
    assert none.answer.text == ABSENT


def test_reading_ends_at_the_first_answer(memory: Memory) -> None:
    """The note answers once it has two parts; a note that stays as it is is not asked."""

    def reply(call: Call) -> Reply | str:
        if call.purpose == "update":
            return {0: "one", 1: "one", 2: "one two"}.get(block_of(call), "one two three")
        return "Velm" if "two" in text_of(call) else ABSENT

    trace, calls = asked(reply, memory, gate="open", style="bare", stop="answered")
    assert [call.purpose for call in calls] == ["update", "answer", "update", "update", "answer"]
    assert trace.answer is not None
    assert trace.answer.text == "Velm"
    whole, more = asked(reply, memory, gate="open", style="bare")
    assert len(more) == len(memory.blocks) + 1
    assert whole.answer is not None
    assert whole.answer.text == "Velm"


def test_blocks_end_after_sentences_unless_they_are_exact(trained: Backbone) -> None:
    _, made = bank(TEXT, trained, compressor="trained")
    assert len(made.blocks) > 2
    assert all((block.read() or "").rstrip().endswith(".") for block in made.blocks)
    assert all(block.token_count <= 32 for block in made.blocks)
    assert all(block.slot_count == -(-block.token_count // 4) for block in made.blocks)
    _, exact = bank(TEXT, trained, compressor="trained", borders="exact")
    assert [block.token_count for block in exact.blocks[:-1]] == [32] * (len(exact.blocks) - 1)


def test_a_gate_that_always_opens_is_no_gate(memory: Memory) -> None:
    always, calls = asked(scores_by_block(*[9.0] * len(memory.blocks)), memory, gate="head")
    none, others = asked(scores_by_block(), memory, gate="open")
    assert [call for call in calls if not isinstance(call.wants, HeadScore)] == others
    assert always.answer == none.answer
    assert len(others) == len(memory.blocks) + 1


def test_a_gate_that_opens_nothing_says_so(memory: Memory) -> None:
    trace, calls = asked(scores_by_block(*[-1.0] * len(memory.blocks)), memory, gate="head")
    assert trace.answer is not None
    assert trace.answer.text == ABSENT
    assert f"none of {len(memory.blocks)} blocks" in trace.answer.reply
    assert "block 0: 0.27" in trace.answer.reply
    assert all(isinstance(call.wants, HeadScore) for call in calls)


def test_a_blank_note_leaves_the_old_one_and_the_number_of_blocks_is_limited(memory: Memory) -> None:
    notes = iter(["first", " ", "third"])
    _, calls = asked(lambda call: next(notes) if call.purpose == "update" else "x", memory, gate="open", most=3)
    assert [call.purpose for call in calls] == ["update"] * 3 + ["answer"]
    assert "first" in text_of(calls[2])
    assert "third" in text_of(calls[3])


def test_a_model_is_asked_for_yes_or_no(memory: Memory) -> None:
    """The score is the probability of yes against no."""
    likely = {"yes": (-0.5,), "no": (-2.5,)}

    def reply(call: Call) -> Reply | str:
        if not isinstance(call.wants, Likelihood):
            return "note"
        is_second = block_of(call) == 2
        return Reply(
            logprobs=likely[call.wants.text] if is_second else likely["no" if call.wants.text == "yes" else "yes"]
        )

    _, calls = asked(reply, memory, gate="ask", threshold=0.8)
    assert [block_of(call) for call in calls if call.purpose == "update"] == [2]  # sigmoid(2) = 0.88


def test_word_overlap_opens_the_best_blocks_alone(backbone: Backbone) -> None:
    _, made = bank(
        "Nothing to see here at all. " * 8 + "Ada was born in Velm. " + "Nothing more to see. " * 8, backbone
    )
    _, calls = asked(lambda call: "x", made, gate="bm25", most=1)
    assert [call.purpose for call in calls] == ["update", "answer"]
    assert "Velm" in (made.blocks[block_of(calls[0])].read() or "")


def test_opened_blocks_are_read_as_text_where_the_settings_say_so(trained: Backbone) -> None:
    """The gate sees keys and values, the reasoner the words."""
    system, made = bank(TEXT, trained, compressor="trained", reading="text", gate="head", threshold=0.0)
    gate = head_call(system.fold, system.read, made.name, 0, QUESTION, "a note")
    update = system._update(made.name, 0, QUESTION, "a note", 8)
    assert system.render(made, gate, trained).prefix is not None
    rendered = system.render(made, update, trained)
    assert rendered.prefix is None
    assert rendered.adapter == REASONER
    words = trained.tokenizer.decode(rendered.tokens)
    assert (made.blocks[0].read() or "").strip() in words
    assert QUESTION in words
    assert system.capabilities.rereads_text
    trace = answer(Job(system, made, QUESTION), LocalPolicy(trained))
    assert trace.failure is None


def test_the_model_itself_answers_with_every_gate(trained: Backbone) -> None:
    for gate in ("head", "ask", "bm25", "open"):
        system, made = bank(TEXT, trained, compressor="trained", gate=gate, threshold=0.0, most=2, max_tokens=8)
        trace = answer(Job(system, made, QUESTION), LocalPolicy(trained))
        assert trace.failure is None, trace.failure
        assert trace.answer is not None


def test_a_block_beyond_the_window_is_refused(new_backbone: MakeBackbone) -> None:
    system, made = bank(TEXT, new_backbone(window=64), ratio=1, chunk=128, gate="open")
    trace = answer(Job(system, made, QUESTION), LocalPolicy(new_backbone(window=64)))
    assert trace.failure is not None
    assert trace.failure.message.endswith("use a --model with a larger window")
    assert isinstance(DataError(""), Exception)


# --- storage and training


def test_a_model_reads_as_it_was_trained_to_read() -> None:
    settings = {"compressor": "trained", "chunk": 256, "gate": "head", "order": "best", "note": 64, "passes": 2}
    trained = Kvbank.of(Kvbank.trained_settings(Kvbank.of(settings).record({})))
    assert {name: trained.settings[name] for name in settings} == settings


def test_a_bank_on_disk_answers_as_in_memory(trained: Backbone, tmp_path: Path) -> None:
    trained.trained["kvbank"] = Kvbank.of({"compressor": "trained", "gate": "open"}).record({})
    save_backbone(trained, tmp_path / "model")
    loaded = load_backbone(tmp_path / "model", roles=False)  # as a session does
    system, made = bank(TEXT, trained, compressor="trained", gate="open")
    _, again = bank(TEXT, loaded, compressor="trained", gate="open")
    torch.testing.assert_close(slots(made), slots(again), atol=1e-3, rtol=1e-3)  # whose adapter is merged
    ours = answer(Job(system, made, QUESTION), LocalPolicy(trained))
    theirs = answer(Job(system, again, QUESTION), LocalPolicy(loaded))
    assert [step.reply.tokens for step in ours.steps] == [step.reply.tokens for step in theirs.steps]


def test_a_resumed_fold_has_the_same_blocks(trained: Backbone) -> None:
    for compressor in ("trained", "reconstruction"):
        system = Kvbank.of({"chunk": 16, "compressor": compressor})
        documents = [Document("a", text=TEXT), Document("b", text=TEXT[40:])]
        with torch.no_grad():
            whole = list(system.compress(documents, trained))
            rest = list(system.compress(documents, trained, done=3))
        assert len(rest) == len(whole) - 3
        for block, same in zip(whole[3:], rest, strict=True):
            assert torch.equal(torch.as_tensor(block.slots), torch.as_tensor(same.slots))


def test_the_script_opens_the_blocks_of_the_evidence(trained: Backbone) -> None:
    options = TaskOptions(level=2, samples=2, kinds=("two-hop",))
    system = Kvbank.of({"chunk": 48, "gate": "head", "compressor": "trained", "note": 64})
    sample = almanac(3, 256, options, trained.encode)[0]
    trace = system.script(sample, trained, "recall")
    gates = [step for step in trace.steps if isinstance(step.call.wants, HeadScore)]
    updates = [step for step in trace.steps if step.call.purpose == "update"]
    opened = {block_of(step.call) for step in gates if step.reply.score}
    assert opened
    (idle,) = [step for step in updates if block_of(step.call) not in opened]
    assert f"\n{idle.reply.text.strip()}\n" in text_of(idle.call), "the note that it already has"
    assert {block_of(step.call) for step in updates if step is not idle} == opened
    assert all(sentence in updates[-1].reply.text for sentence in sample.support)
    assert sample.expected in trace.steps[-1].reply.text
    scores = logprobs(trained, system, [(sample.document, [trace])])
    loss = system.losses(scores.outputs)["gate"]
    labels = torch.tensor([step.reply.score for step in gates])
    logits = torch.stack([output.score for output in scores.outputs])
    by_hand = -(3 * labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log()).mean()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-4)


def test_questions_over_one_block_are_read_directly(trained: Backbone) -> None:
    system = Kvbank.of({"chunk": 128, "compressor": "trained", "reading": "block"})
    sample = almanac(3, 96, TaskOptions(level=1), trained.encode)[0]
    (step,) = system.script(sample, trained, "recall").steps
    assert step.call.adapter is None  # the frozen model reads the block
    assert [type(part) for part in step.call.parts] == [BlockRef, Text, TemplatePart]
    with pytest.raises(ConfigError, match="a document of"):
        system.script(almanac(3, 256, TaskOptions(level=1), trained.encode)[0], trained, "recall")
