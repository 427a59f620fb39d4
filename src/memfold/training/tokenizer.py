"""Trains the tokenizer of a model from scratch: byte-level BPE on the project's own generated text.

Numbers are split into pairs of digits, so that a year is two tokens.  Invented names are given to the trainer syllable
by syllable, so that a syllable becomes one token in any name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memfold.core.prompt import Style, after_memory, target
from memfold.tasks.instructions import INSTRUCTIONS
from memfold.tasks.names import SYLLABLES
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions

END_OF_TEXT = "<|endoftext|>"
CHATML = ("<|im_start|>", "<|im_end|>")
WORDS = Regex(r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+")
_ANY = "|".join(sorted(SYLLABLES, key=len, reverse=True))
SYLLABLE = re.compile(_ANY, re.IGNORECASE)
NAME = re.compile(rf" (?=[A-Z])(?i:{_ANY})+\b")
WRITTEN: tuple[Style, ...] = ("bare", "recall")
PAGES, PAGE_TOKENS = 400, 2000


def train_tokenizer(vocabulary: int, seed: int, tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` entries; `tokens` are the special tokens of the systems."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(WORDS, behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, *tokens, *CHATML],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def _apart(text: str) -> str:
    """Return the text with every word that consists of name syllables split into them."""
    return NAME.sub(lambda match: " " + "\n".join(SYLLABLE.findall(match[0])), text)


def _text(seed: int) -> Iterator[str]:
    """Yield the training text: almanac pages of all levels with questions and replies, filler, and instructions."""
    rough = str.split
    for page in range(PAGES):
        options = TaskOptions(level=page % 4, samples=40)
        for sample in load_task("almanac")(seed * PAGES + page, PAGE_TOKENS, options, rough):  # type: ignore[arg-type]
            for style in WRITTEN:  # a free reply has one of these styles
                yield _apart(after_memory("flat", sample.question, style))
                yield _apart(target(sample.expected, sample.support, style))
        yield _apart(sample.document.read())
        if page % 8 == 0:
            yield str(load_task("filler")(seed * PAGES + page, PAGE_TOKENS, TaskOptions(), rough)[0].target)  # type: ignore[arg-type]
    for pool in INSTRUCTIONS.values():
        yield "\n".join(list(pool) * 50)
