"""The package vLLM (extra `gpu`) as far as rollouts need it: embeddings in, tokens with log-probabilities out.

All that is known of the package is in this file; it is imported when a `VllmModel` is made.  Weights come from a
folder, at the start and again after each update: by the worker method `reload_weights`, which vLLM documents beside its
layerwise reloading and which works across its processes.  Left out: handing them over in GPU memory (its weight
transfer), which needs no disk, but whose interface changes every few versions.

Written for vLLM 0.32 from its published documentation and source, and tested against a stand-in: it has not been run
with vLLM itself, nor on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from memfold.core.errors import CallError, ConfigError, Failure
from memfold.core.types import Reply, SamplingParams

FINISHES = ("stop", "length")


class VllmModel:
    """A model in vLLM, which starts with the first `load`.

    `dtype` is that of its weights, `memory` the share of the card's memory that it takes.

    Raises:
        ConfigError: when vLLM is not installed.
    """

    def __init__(self, dtype: str, memory: float) -> None:
        self._package = _package()
        self._dtype, self._memory = dtype, memory
        self._llm: Any = None

    def load(self, folder: Path) -> None:
        """Take the weights of a Hugging Face folder; each time another one, since files may be kept open.

        Raises:
            ConfigError: when vLLM does not start.
            CallError: when it would go on with keys and values of the weights before.
        """
        if self._llm is None:
            self._llm = self._start(folder)
            return
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self._llm.reset_prefix_cache():
            raise CallError("policy", "vLLM did not forget the keys and values of the weights before an update")

    def generate(
        self, prompts: Sequence[Tensor], sampling: Sequence[SamplingParams], end: int
    ) -> list[Reply | Failure]:
        """A reply without text for each prompt [t, d] on the CPU, up to the token `end`; its own seed each."""
        given = [{"prompt_embeds": prompt} for prompt in prompts]
        outputs = self._llm.generate(given, [self._params(params, end) for params in sampling], use_tqdm=False)
        return [_reply(output.outputs[0]) for output in outputs]

    def _start(self, folder: Path) -> Any:
        try:
            return self._package.LLM(
                model=str(folder),
                dtype=self._dtype,
                gpu_memory_utilization=self._memory,
                enable_prompt_embeds=True,
                logprobs_mode="raw_logprobs",  # untempered, as replies hold them
            )
        except (RuntimeError, ValueError) as error:  # no device, too little memory
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"vLLM does not start with engine_memory = {self._memory}: {line}") from error

    def _params(self, sampling: SamplingParams, end: int) -> Any:
        """One way to end, so that the end tokens of a generation_config.json play no part; it is part of the reply."""
        return self._package.SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            logprobs=0,
            ignore_eos=True,
            stop_token_ids=[end],
            detokenize=False,
        )


def _reply(output: Any) -> Reply | Failure:
    if output.finish_reason not in FINISHES:
        return Failure.of("policy", CallError("policy", f"vLLM ended a reply with {output.finish_reason!r}"))
    tokens = tuple(output.token_ids)
    logprobs = tuple(float(at[token].logprob) for token, at in zip(tokens, output.logprobs, strict=True))
    return Reply(tokens=tokens, logprobs=logprobs, finish=output.finish_reason)


def _package() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(f"engine 'vllm' needs vLLM ({error}); pip install 'memfold[gpu]'") from None
    return vllm
