"""Runs the tasks of lm-evaluation-harness with a memfold model, which reads a memory of their context.

    python -m memfold.evaluation.harness run --model memfold --model_args pretrained=tiny,system=pooled --tasks NAME

A prompt of the harness is one string.  Its end stays text and everything before it is folded.  The end is the last
`tail` tokens, from the beginning of a line if possible, which contain the question of most tasks.  Prompts of up to
twice that length are read as text.  The continuation is generated or scored without memfold's chat template.  Systems
that read only a part of a text are not supported, because the question cannot be separated from the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch

from memfold.backbone.score import logprobs
from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.policy import Request, complete
from memfold.core.registry import DEFAULT
from memfold.core.types import BlockRef, Call, Memory, Reply, SamplingParams, Step, Text, Trace
from memfold.endpoint.model import is_address
from memfold.session import CPU, load, make_system, policy_of
from memfold.systems.shared.folding import fold

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise ConfigError("the harness needs lm-eval; pip install 'memfold[harness]'") from error

ROLLING_TOKENS = 1024  # scored at a time of a text without a question, all before them as its memory
TEMPERATURE = 1.0  # of a task that asks for drawn replies without saying which


@register_model("memfold")
class MemfoldLM(LM):  # type: ignore[misc]
    """The model that `pretrained` names as `--model` does, reading through `system` at `ratio`.

    On a GPU it computes in bfloat16 unless `dtype` says otherwise; the device that the harness names is taken where
    it is there.

    Raises:
        ConfigError: for a system or a setting that is not possible.
    """

    def __init__(
        self,
        pretrained: str = "tiny",
        system: str = DEFAULT,
        ratio: int | None = None,
        tail: int = 256,
        max_gen_toks: int = 256,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        require(tail > 0, "tail", tail, "1 token or more")
        device = CPU if is_address(pretrained) else _device(device)
        self.model = load(pretrained, device, dtype or ("float32" if device == CPU else "bfloat16"))
        self.system = make_system(system, self.model, ratio)
        if self.system.effective_ratio(tail) is None:
            raise ConfigError(f"system {system!r} reads only a part of a text; use a system that reads all of it")
        self.tail, self.max_tokens = tail, max_gen_toks
        self.batch = int(batch_size) if str(batch_size).isdecimal() else max_batch_size or 8

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its caches of chat prompts after."""
        return self.model.name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt of a chat, as the tokenizer of the model formats it, without its start token."""
        tokenizer = self.model.weights().tokenizer
        prompt = tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(prompt).removeprefix(tokenizer.bos_token or "")  # every prompt begins with it

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return continuations, cut before the first of their stops."""
        replies: list[str] = []
        for batch in _batches(requests, self.batch):
            arguments = [request.args for request in batch]
            replies += self._generate([(context, dict(options)) for context, options in arguments])
        return replies

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and whether greedy decoding would write it."""
        pairs = [(str(context), str(continuation)) for context, continuation in (request.args for request in requests)]
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        scored: dict[tuple[str, str], tuple[float, bool]] = {}
        for batch in _batches(contexts, self.batch):
            scored |= self._score({context: [pair for pair in pairs if pair[0] == context] for context in batch})
        return [scored[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, a stretch at a time with all before it as context."""
        texts = [request.args[0] for request in requests]
        stretches = [_stretches(text, self.model.tokenize(text)[1]) for text in texts]
        flat = iter(self.loglikelihood([_Pair(pair) for pairs in stretches for pair in pairs]))
        return [sum(next(flat)[0] for _ in pairs) for pairs in stretches]

    def _generate(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        requests, stops = [], {}
        memories = self._memories([context for context, _ in asked])
        for (memory, end), (_, options) in zip(memories, asked, strict=True):
            call = _call(memory, Text(tokens=self._encoded(end))).sampled(self._sampling(options))
            requests.append(Request(self.system, memory, call))
            stops[requests[-1]] = _stops(options.get("until"))

        def ended(request: Request, text: str) -> bool:
            return any(stop in text for stop in stops[request])

        replies = complete(policy_of(self.model), requests, ended)
        return [_cut(reply.text, stops[request]) for request, reply in zip(requests, replies, strict=True)]

    def _sampling(self, options: dict[str, Any]) -> SamplingParams:
        """Return what a task says of its replies; greedy unless it wants them drawn."""
        most = int(options.get("max_gen_toks", self.max_tokens))
        if not options.get("do_sample", options.get("temperature", 0) > 0):
            return SamplingParams(max_tokens=most)
        temperature = float(options.get("temperature", TEMPERATURE))
        return SamplingParams(most, temperature, float(options.get("top_p", 1.0)), int(options.get("top_k", 0)))

    @torch.no_grad()
    def _score(self, pairs: dict[str, list[tuple[str, str]]]) -> dict[tuple[str, str], tuple[float, bool]]:
        """Return the continuations of each context, all contexts in one batch."""
        if not self.model.has_weights:
            raise ConfigError(
                f"model {self.model.name!r} is an endpoint, which cannot score a given text; use local weights"
            )
        scored, order = [], []
        for (memory, end), same_context in zip(self._memories(list(pairs)), pairs.values(), strict=True):
            scored.append((memory, [self._trace(memory, end, continuation) for _, continuation in same_context]))
            order += same_context
        parts = logprobs(self.model.weights(), self.system, scored).parts()
        return {
            pair: (float(values.sum()), bool(correct.all()))
            for pair, (_, values, correct) in zip(order, parts, strict=True)
        }

    def _trace(self, memory: Memory, end: str, continuation: str) -> Trace:
        """Return a call with its reply, tokenised as one text; a space between them belongs to the reply."""
        kept = end.rstrip(" ")
        before = self._encoded(kept)
        whole = self._encoded(kept + end[len(kept) :] + continuation)
        call = _call(memory, Text(tokens=before))
        step = Step(call, Reply(tokens=whole[len(before) :]))
        return Trace("", self.system.name, self.system.settings, (step,))

    def _encoded(self, text: str) -> tuple[int, ...]:
        """Return the tokens of the end of a prompt; control tokens count, since a chat template may have written it."""
        if not self.model.has_weights:
            return tuple(self.model.encode(text))
        return tuple(self.model.weights().prompts.control.encode_template(text)[0])

    def _memories(self, contexts: Sequence[str]) -> list[tuple[Memory, str]]:
        """Return each context as a memory of its beginning, which may be empty, and the text of its end."""
        cuts = [self._cut(context) for context in contexts]
        long = [number for number, cut in enumerate(cuts) if cut]
        documents = [Document(f"context-{number}", text=contexts[number][: cuts[number]]) for number in long]
        folded = dict(zip(long, fold(self.system, documents, self.model), strict=True))
        empty = Memory("empty", self.system.name, self.system.settings, "", (), [])
        return [(folded.get(number, empty), context[cuts[number] :]) for number, context in enumerate(contexts)]

    def _cut(self, context: str) -> int:
        """Return where the end of a context begins, in characters."""
        offsets = self.model.tokenize(context)[1]
        if len(offsets) <= 2 * self.tail:
            return 0
        latest, earliest = offsets[-self.tail][0], offsets[-2 * self.tail][0]
        line = context.rfind("\n", earliest, latest) + 1
        return line or latest


def _device(given: str | None) -> str:
    """Return the device of the model: the CPU if the harness asks for a GPU that does not exist."""
    available = given is not None and (not given.startswith("cuda") or torch.cuda.is_available())
    return str(given) if available else CPU


class _Pair:
    """A request in the form that the harness has."""

    def __init__(self, args: tuple[str, str]) -> None:
        self.args = args


def _call(memory: Memory, end: Text) -> Call:
    return Call("answer", (Text(""), *(BlockRef(memory.name, block.index) for block in memory.blocks), end))


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    left: Iterable[Any] = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _stretches(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    """Return a text as pairs of what was read before and what is scored, about `ROLLING_TOKENS` at a time."""
    starts = [0, *(offsets[token][0] for token in range(ROLLING_TOKENS, len(offsets), ROLLING_TOKENS)), len(text)]
    return [(text[:start], text[start:end]) for start, end in pairwise(starts) if end > start]


def _stops(until: str | Sequence[str] | None) -> list[str]:
    given = [until] if isinstance(until, str) else list(until or ())
    return [stop for stop in given if stop]


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
