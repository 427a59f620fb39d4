"""The tokenizer of a model made from scratch: byte-level BPE trained on the project's own generated text.

Numbers are cut into pairs of digits, so that copying a year is copying two tokens.  Invented names are shown to the
trainer syllable by syllable, so that a syllable becomes one token wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memfold.backbone.model import END, START
from memfold.core.prompt import Style, after_memory, target
from memfold.tasks.instructions import INSTRUCTIONS
from memfold.tasks.names import SYLLABLES
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, START, END, "<|im_start|>", "<|im_end|>")
WORDS = Regex(r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+")
_ANY = "|".join(sorted(SYLLABLES, key=len, reverse=True))
SYLLABLE = re.compile(_ANY, re.IGNORECASE)
NAME = re.compile(rf" (?=[A-Z])(?i:{_ANY})+\b")
WRITTEN: tuple[Style, ...] = ("bare", "recall")
PAGES, PAGE_TOKENS = 400, 2000


def train_tokenizer(vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` entries; the same seed gives the same one."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(WORDS, behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def _apart(text: str) -> str:
    """The text with every word that is made of name syllables alone cut into them."""
    return NAME.sub(lambda match: " " + "\n".join(SYLLABLE.findall(match[0])), text)


def _text(seed: int) -> Iterator[str]:
    """Almanac pages of all levels with their questions and replies, filler, and the instructions."""
    rough = str.split
    for page in range(PAGES):
        options = TaskOptions(level=page % 4, samples=40)
        for sample in load_task("almanac")(seed * PAGES + page, PAGE_TOKENS, options, rough):  # type: ignore[arg-type]
            for style in WRITTEN:  # a free reply is one of them
                yield _apart(after_memory("flat", sample.question, style))
                yield _apart(target(sample.expected, sample.support, style))
        yield _apart(sample.document.read())
        if page % 8 == 0:
            yield str(load_task("filler")(seed * PAGES + page, PAGE_TOKENS, TaskOptions(), rough)[0].target)  # type: ignore[arg-type]
    for pool in INSTRUCTIONS.values():
        yield "\n".join(list(pool) * 50)
