"""Small tokenizers of every kind, and chat templates in the manner of published model families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The mill of Tor stands by the river. Ada was born in Velm, and her code is KX-41.",
    "Where was Ada born?\nAnswer from the text above in a few words.",
    "user assistant system model think end You are a helpful assistant. < > / | [ ] _ s INST",
]
WORDS = Regex(r"'s|'t| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class Family:
    """A chat template with its tokens: those written as plain added tokens, and those that strip white space."""

    template: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    strips: tuple[str, ...] = ()
    start: str | None = None  # the token that begins a text


FAMILIES = {
    "chatml": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "llama-3": Family(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        start="<|begin_of_text|>",
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        start="<bos>",
    ),
    "mistral": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} "
        "[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>",),
        start="<s>",
    ),
    "mistral-tokens": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}"
        "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "[INST]", "[/INST]"),
        start="<s>",
    ),
    "qwen-3": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and "
        "'</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}"
        "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        plain=("<think>", "</think>"),
    ),
    "r1-distil": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<\uff5cUser\uff5c>{{ m.content }}"
        "{% else %}<\uff5cAssistant\uff5c>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}",
        ("<\uff5cbegin▁of▁sentence\uff5c>",),
        plain=("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"),
        start="<\uff5cbegin▁of▁sentence\uff5c>",
    ),
    "phi-3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("<s>",),
        strips=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        start="<s>",
    ),
    "zephyr": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("<s>",),
        start="<s>",
    ),
}


def _byte_level() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)


def _sentence_pieces(scheme: str) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = _spaces_and_bytes()
    return tokenizer, _bpe_with_bytes()


def _prepended() -> tuple[Tokenizer, trainers.Trainer]:
    """The first Llama tokenizers: a space is put before a text by the normaliser."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _spaces_and_bytes()
    return tokenizer, _bpe_with_bytes()


def _spaces_and_bytes() -> decoders.Decoder:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(parts)


def _unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )


def _bpe_with_bytes() -> trainers.Trainer:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)


def _as_published(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer whose bytes are no added tokens, and whose merges can make an end token from letters."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    vocabulary = state["model"]["vocab"]
    if "</s>" in vocabulary:
        for left, right in (("<", "/"), ("s", ">"), ("</", "s>")):
            vocabulary.setdefault(left + right, len(vocabulary))
            state["model"]["merges"].append([left, right])
    return Tokenizer.from_str(json.dumps(state))


KINDS = {
    "byte-level": _byte_level,
    "pieces-first": lambda: _sentence_pieces("first"),
    "pieces-always": lambda: _sentence_pieces("always"),
    "pieces-never": lambda: _sentence_pieces("never"),
    "prepended": _prepended,
    "unigram": _unigram,
}


@cache
def tokenizer_of(kind: str, family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a kind, with the tokens and the chat template of a family of models."""
    own = FAMILIES[family]
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    tokenizer = _as_published(tokenizer)
    tokenizer.add_special_tokens(["</s>", *own.special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in own.plain])
    tokenizer.add_special_tokens([AddedToken(token, rstrip=True, normalized=False) for token in own.strips])
    if own.start is not None:
        number = tokenizer.token_to_id(own.start)
        template = processors.TemplateProcessing(f"{own.start}:0 $A:0", special_tokens=[(own.start, number)])
        tokenizer.post_processor = template
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=own.start,
        eos_token="</s>",
        chat_template=own.template,
        clean_up_tokenization_spaces=False,
    )


def base_tokenizer(kind: str, start: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer without a chat template; `start` is the token that it puts before a text."""
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    tokenizer = _as_published(tokenizer)
    tokenizer.add_special_tokens(["</s>", *([start] if start else [])])
    if start:
        number = tokenizer.token_to_id(start)
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", special_tokens=[(start, number)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token="</s>")


def templated(tokenizer: PreTrainedTokenizerFast, content: str) -> list[int]:
    """Return the tokens of a prompt as the tokenizer itself makes them."""
    messages = [{"role": "user", "content": content}]
    return list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False, return_dict=False)
    )


def control_tokens(family: str) -> Sequence[str]:
    """Return the names of the tokens that steer a conversation in a family."""
    own = FAMILIES[family]
    return ("</s>", *own.special, *own.plain, *own.strips)
