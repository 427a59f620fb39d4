"""Tiny models with random weights, of the three architectures, on one tokenizer trained once for the session; and a
chat endpoint on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from chat_server import ChatServer
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

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

    def make(*pages: str) -> bytes:
        objects = ["<</Type/Catalog/Pages 2 0 R>>", "", "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
        places = []
        for text in pages:
            lines = [line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)") for line in text.split("\n")]
            drawn = f"BT /F1 12 Tf 14 TL 50 700 Td {' T* '.join(f'({line}) Tj' for line in lines)} ET"
            stream = drawn if text.strip() else "0 0 m 9 9 l S"
            places.append(f"{len(objects) + 1} 0 R")
            objects += [
                f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {len(objects) + 2} 0 R"
                "/Resources<</Font<</F1 3 0 R>>>>>>",
                f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
            ]
        objects[1] = f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(places)}]>>"
        data, offsets = b"%PDF-1.4\n", []
        for number, body in enumerate(objects, 1):
            offsets.append(len(data))
            data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
        table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
        tail = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        tail += f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(data)}\n%%EOF\n"
        return data + tail.encode()

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
