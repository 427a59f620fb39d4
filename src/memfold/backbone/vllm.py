"""The parts of vLLM (extra `gpu`) that rollouts need: embeddings in, tokens with log-probabilities out.

Only this module uses the package, and imports it when a `VllmModel` is created.  Weights are loaded from a folder, at
the start and after each update, with the worker method `reload_weights`, which is documented together with layerwise
reloading and works across the processes of vLLM.  The weight transfer of vLLM, which stays in GPU memory and needs no
disk, is not used, because its interface changes every few versions.

This module is written for vLLM 0.32 from its published documentation and source, and tested against a stub.  It has not
been run with vLLM itself, nor on a GPU.
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

    `dtype` is the data type of the weights, and `memory` the fraction of GPU memory that vLLM may use.

    Raises:
        ConfigError: if vLLM is not installed.
    """

    def __init__(self, dtype: str, memory: float) -> None:
        self._package = _package()
        self._dtype, self._memory = dtype, memory
        self._llm: Any = None

    def load(self, folder: Path) -> None:
        """Load the weights of a Hugging Face folder; each update needs a new folder, since vLLM may keep files open.

        Raises:
            ConfigError: if vLLM does not start.
            CallError: if vLLM does not clear its prefix cache, which would mix old keys and values with new weights.
        """
        if self._llm is None:
            self._llm = self._start(folder)
            return
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self._llm.reset_prefix_cache():
            raise CallError("policy", "vLLM did not clear its prefix cache after a weight update; restart the run")

    def generate(
        self, prompts: Sequence[Tensor], sampling: Sequence[SamplingParams], ends: Sequence[int]
    ) -> list[Reply | Failure]:
        """Return a reply, without text, for each prompt of embeddings [t, d] on the CPU.

        Each reply ends with a token of `ends` or at its length limit, and uses the seed of its sampling parameters.
        """
        inputs = [{"prompt_embeds": prompt} for prompt in prompts]
        outputs = self._llm.generate(inputs, [self._params(params, ends) for params in sampling], use_tqdm=False)
        return [_reply(output.outputs[0]) for output in outputs]

    def _start(self, folder: Path) -> Any:
        try:
            return self._package.LLM(
                model=str(folder),
                dtype=self._dtype,
                gpu_memory_utilization=self._memory,
                enable_prompt_embeds=True,
                logprobs_mode="raw_logprobs",  # before temperature, as in `Reply.logprobs`
            )
        except (RuntimeError, ValueError) as error:  # no device, too little memory
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"vLLM does not start with engine_memory = {self._memory}: {line}") from error

    def _params(self, sampling: SamplingParams, ends: Sequence[int]) -> Any:
        """Convert sampling parameters; `ends` are the only stop tokens, whatever generation_config.json says."""
        return self._package.SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            logprobs=0,
            ignore_eos=True,
            stop_token_ids=list(ends),
            detokenize=False,
        )


def _reply(output: Any) -> Reply | Failure:
    if output.finish_reason not in FINISHES:
        message = f"vLLM ended a reply with {output.finish_reason!r}; expected: {', '.join(FINISHES)}"
        return Failure.of("policy", CallError("policy", message))
    tokens = tuple(output.token_ids)
    logprobs = tuple(float(entries[token].logprob) for token, entries in zip(tokens, output.logprobs, strict=True))
    return Reply(tokens=tokens, logprobs=logprobs, finish=output.finish_reason)


def _package() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(f"engine 'vllm' needs vLLM ({error}); pip install 'memfold[gpu]'") from None
    return vllm
