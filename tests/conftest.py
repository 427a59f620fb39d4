"""Tiny models with random weights, of the three architectures, on one tokenizer trained once for the session; and a
chat endpoint on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from chat_server import ChatServer
from pdf_file import Placed, pdf_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from memfold.backbone import familiarity
from memfold.backbone.model import Backbone
from memfold.systems.pooled.head import add_head
from memfold.systems.pooled.system import Pooled
from memfold.training import tokenizer as tokenizer_training

torch.set_num_threads(1)

VOCABULARY = 512
CONFIGS = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}

MakeBackbone = Callable[..., Backbone]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_training, "PAGES", 16)
        return tokenizer_training.train_tokenizer(VOCABULARY, 0, Pooled.tokens)


@pytest.fixture(scope="session")
def new_backbone(tokenizer: PreTrainedTokenizerFast) -> MakeBackbone:
    """Makes a model of its own for a test that changes it.  Weights are large, so that a reply depends on its text."""

    def make(architecture: str = "qwen3", seed: int = 0, window: int = 2048, hidden: int = 32) -> Backbone:
        config = CONFIGS[architecture](
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=hidden // 4,
            intermediate_size=2 * hidden,
            max_position_embeddings=window,
            initializer_range=0.3,
            tie_word_embeddings=architecture != "llama",
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        backbone = Backbone(architecture, model, tokenizer)
        add_head(backbone)
        for weight in backbone.heads.parameters():
            torch.nn.init.normal_(weight, std=hidden**-0.5)
        return backbone

    return make


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., bytes]:
    """The bytes of a PDF with these texts on its pages; a page without text has an empty string."""

    def make(*pages: str, password: str | None = None) -> bytes:
        drawn = [
            [Placed(50, 700 - 14 * number, line) for number, line in enumerate(text.split("\n")) if line.strip()]
            for text in pages
        ]
        return pdf_file(drawn, password)

    return make


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def any_backbone(request: pytest.FixtureRequest, new_backbone: MakeBackbone) -> Backbone:
    """Each architecture in turn; not to be changed."""
    return new_backbone(request.param)


@pytest.fixture(scope="session")
def backbone(new_backbone: MakeBackbone) -> Backbone:
    """Not to be changed."""
    return new_backbone()


@pytest.fixture
def wary(new_backbone: MakeBackbone, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A model with limits, for which exactly the texts with odd characters are unfamiliar."""
    backbone = new_backbone()
    backbone.familiar_loss = 3.0

    def losses(_: Backbone, texts: Sequence[str]) -> list[float]:
        return [1.0 + 4.0 * ("%%" in text) for text in texts]

    monkeypatch.setattr(familiarity, "losses_of", losses)
    return backbone


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """Answers until the test ends; no key and no proxy of the machine that runs the tests is used."""
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
