"""What rollouts use of vLLM, on a torch model: constructor, `generate`, `reload_weights`, and a prefix cache.

It is as strict as vLLM is: positions run from 0, files that are no weights of the model are an error, and keys and
values stay cached over an update of the weights until they are dropped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

ACCEPTED = {"dtype", "gpu_memory_utilization", "enable_prompt_embeds", "logprobs_mode"}


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    logprobs: int
    ignore_eos: bool
    stop_token_ids: list[int]
    detokenize: bool


class LLM:
    def __init__(self, model: str, **options: Any) -> None:
        assert options.keys() == ACCEPTED
        assert options["enable_prompt_embeds"]
        assert options["logprobs_mode"] == "raw_logprobs"
        self.options = options
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, options["dtype"])).eval()
        self.read = [model]
        self.cached: dict[bytes, tuple[DynamicCache, Tensor]] = {}
        _weights(self.model, Path(model))

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> list[None]:
        assert method == "reload_weights"
        _weights(self.model, Path(kwargs["weights_path"]))
        self.read.append(kwargs["weights_path"])
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.cached.clear()
        return True

    def generate(self, prompts: list[dict[str, Tensor]], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        assert len(prompts) == len(params)
        assert not use_tqdm
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            made = [self._one(prompt["prompt_embeds"], param) for prompt, param in zip(prompts, params, strict=True)]
        return [SimpleNamespace(outputs=[output]) for output in made]

    def _one(self, prompt: Tensor, params: SamplingParams) -> Any:
        assert (prompt.ndim, prompt.dtype, prompt.device.type) == (2, self.model.dtype, "cpu")
        key = prompt.view(torch.uint8).numpy().tobytes()
        if key not in self.cached:
            output = self.model(inputs_embeds=prompt[None], use_cache=True)
            self.cached[key] = (output.past_key_values, output.logits[0, -1])
        cache, logits = copy.deepcopy(self.cached[key])
        generator = torch.Generator().manual_seed(params.seed)
        tokens: list[int] = []
        found: list[dict[int, Any]] = []
        while True:
            table = logits.float().log_softmax(-1)
            token = int(torch.multinomial((table / params.temperature).softmax(-1), 1, generator=generator))
            tokens.append(token)
            found.append({token: SimpleNamespace(logprob=float(table[token]))})
            if token in params.stop_token_ids or len(tokens) == params.max_tokens:
                reason = "stop" if token in params.stop_token_ids else "length"
                return SimpleNamespace(token_ids=tokens, logprobs=found, finish_reason=reason)
            output = self.model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            logits = output.logits[0, -1]


def _weights(model: torch.nn.Module, folder: Path) -> None:
    """Read every weights file of the folder, whatever its name, as vLLM does."""
    names = dict(model.named_parameters())
    for path in folder.glob("*.safetensors"):
        for name, value in load_file(path).items():
            if name in names:
                names[name].data.copy_(value)
            elif name != "lm_head.weight":  # tied
                raise ValueError(f"There is no module or parameter named {name!r}")


def module() -> ModuleType:
    made = ModuleType("vllm")
    made.__dict__.update(LLM=LLM, SamplingParams=SamplingParams)
    return made
