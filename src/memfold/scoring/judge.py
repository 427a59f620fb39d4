"""A language model as judge: decides whether an answer is equivalent to the accepted answers, yes or no.

Verdicts are cached in a file under a hash of the judge's name and the full prompt, so that no prompt is sent twice and
a changed prompt is sent again.  A reply that is neither yes nor no is an error, not a verdict.  Graded scores are not
supported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memfold.core.errors import CallError, ConfigError
from memfold.core.types import Reply, SamplingParams
from memfold.endpoint.model import open_endpoint
from memfold.endpoint.policy import EndpointPolicy

VERDICTS_FILE = "verdicts.jsonl"
SAMPLING = SamplingParams(max_tokens=1024)  # enough for a model that reasons before its verdict
SHOWN_CHARACTERS = 80
_WORDS = re.compile(r"\w+")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)

Ask = Callable[[Sequence[str], SamplingParams], Sequence[Reply | CallError]]


@dataclass(frozen=True)
class Claim:
    """An answer to be judged: it has to match one of the accepted answers or, with `every`, all of them."""

    question: str
    accepted: tuple[str, ...]
    answer: str
    every: bool = False

    def message(self) -> str:
        """The prompt for the judge."""
        rule = "It has to name every one of these" if self.every else "It has to say the same as one of these"
        items = "\n".join(f"- {answer}" for answer in self.accepted)
        return (
            "Somebody answered a question. Decide whether the answer is right.\n\n"
            f"Question: {self.question}\n\n{rule}:\n{items}\n\nThe answer: {self.answer.strip() or '(nothing)'}\n\n"
            "Other words for the same are right, and so is more detail that contradicts nothing. An answer that is "
            "missing, means something else, or leaves open which of several it means is wrong. Go by the list above, "
            "not by what you know.\nIs the answer right? Reply with one word: yes or no."
        )


class Judge:
    """Gets verdicts from the model called `model` through `ask`, and caches them in `file`."""

    def __init__(self, model: str, ask: Ask, file: Path) -> None:
        self.model, self.ask, self.file = model, ask, file
        self._cache = _read(file)

    def verdicts(self, claims: Sequence[Claim]) -> list[bool | CallError]:
        """For each claim, whether its answer is right, or the error that explains why there is no verdict."""
        messages = {self._key(claim): claim.message() for claim in claims}
        missing = [key for key in messages if key not in self._cache]
        failed: dict[str, CallError] = {}
        for key, reply in zip(missing, self.ask([messages[key] for key in missing], SAMPLING), strict=True):
            verdict = reply if isinstance(reply, CallError) else _verdict(reply.text, self.model)
            if isinstance(verdict, CallError):
                failed[key] = verdict
            else:
                self._store(key, verdict)
        keys = [self._key(claim) for claim in claims]
        return [failed[key] if key in failed else self._cache[key] for key in keys]

    def _key(self, claim: Claim) -> str:
        return hashlib.sha256(json.dumps([self.model, claim.message()]).encode()).hexdigest()

    def _store(self, key: str, verdict: bool) -> None:
        self._cache[key] = verdict
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")


def open_judge(model: str, folder: Path | None = None) -> Judge:
    """The judge behind the endpoint `http://HOST:PORT/v1#NAME`, with the cached verdicts of the user's earlier runs.

    Raises:
        ConfigError: if the address has another form, or the folder of the cache cannot be created.
    """
    policy = EndpointPolicy(open_endpoint(model))
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfold"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot cache verdicts in {folder}: {error.strerror}; set XDG_CACHE_HOME") from None
    return Judge(model, policy.ask, folder / VERDICTS_FILE)


def _verdict(reply: str, model: str) -> bool | CallError:
    """The verdict of a reply whose first or last word is yes or no, unless one is yes and the other no."""
    words = _WORDS.findall(_THOUGHT.sub("", reply).lower())
    verdicts = {word for word in (*words[:1], *words[-1:]) if word in ("yes", "no")}
    if len(verdicts) == 1:
        return verdicts == {"yes"}
    line = " ".join(reply.split())
    shown = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."
    return CallError("judge", f"{model} replied {shown!r}; expected yes or no; use another judge")


def _read(path: Path) -> dict[str, bool]:
    """The cached verdicts; lines that cannot be parsed, such as one that was cut short by a kill, are ignored."""
    verdicts: dict[str, bool] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
            verdicts[entry["key"]] = entry["verdict"] is True
        except (ValueError, KeyError, TypeError):
            continue
    return verdicts
