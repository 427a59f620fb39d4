"""A language model as judge: does an answer say the same as the accepted ones?  Yes or no, nothing between.

Verdicts are kept in a file by the hash of model and message, which has question, accepted answers, the answer and our
wording in it: the same is never asked twice, another wording is asked anew.  A reply that is neither yes nor no is an
error, not a verdict.  Left out: marks on a scale.
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
from memfold.core.types import Limits, Reply
from memfold.endpoint.model import open_remote
from memfold.endpoint.policy import EndpointPolicy

VERDICTS_FILE = "verdicts.jsonl"
LIMITS = Limits(max_tokens=1024)  # a model that thinks aloud comes to its verdict within these
SHOWN = 80
_WORDS = re.compile(r"\w+")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)

Ask = Callable[[Sequence[str], Limits], Sequence[Reply | CallError]]


@dataclass(frozen=True)
class Claim:
    """An answer to a question, to be compared with the accepted ones: with any of them, or with `every` one."""

    question: str
    accepted: tuple[str, ...]
    answer: str
    every: bool = False

    def message(self) -> str:
        """What the judge is asked."""
        wanted = "It has to name every one of these" if self.every else "It has to say the same as one of these"
        items = "\n".join(f"- {one}" for one in self.accepted)
        return (
            "Somebody answered a question. Decide whether the answer is right.\n\n"
            f"Question: {self.question}\n\n{wanted}:\n{items}\n\nThe answer: {self.answer.strip() or '(nothing)'}\n\n"
            "Other words for the same are right, and so is more detail that contradicts nothing. An answer that is "
            "missing, means something else, or leaves open which of several it means is wrong. Go by the list above, "
            "not by what you know.\nIs the answer right? Reply with one word: yes or no."
        )


class Judge:
    """Verdicts of the model called `model`, which `ask` reaches; those in `file` are not asked for again."""

    def __init__(self, model: str, ask: Ask, file: Path) -> None:
        self.model, self.ask, self.file = model, ask, file
        self._known = _read(file)

    def verdicts(self, claims: Sequence[Claim]) -> list[bool | CallError]:
        """For each claim whether its answer is right, or why there is no verdict."""
        messages = {self._key(claim): claim.message() for claim in claims}
        waiting = [key for key in messages if key not in self._known]
        failed: dict[str, CallError] = {}
        for key, reply in zip(waiting, self.ask([messages[key] for key in waiting], LIMITS), strict=True):
            verdict = reply if isinstance(reply, CallError) else _verdict(reply.text, self.model)
            if isinstance(verdict, CallError):
                failed[key] = verdict
            else:
                self._keep(key, verdict)
        keys = [self._key(claim) for claim in claims]
        return [failed[key] if key in failed else self._known[key] for key in keys]

    def _key(self, claim: Claim) -> str:
        return hashlib.sha256(json.dumps([self.model, claim.message()]).encode()).hexdigest()

    def _keep(self, key: str, verdict: bool) -> None:
        self._known[key] = verdict
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")


def open_judge(model: str, folder: Path | None = None) -> Judge:
    """The judge at an address, `http://HOST:PORT/v1#NAME`, with the verdicts of this user's earlier runs.

    Raises:
        ConfigError: for an address of another form, or a folder for verdicts that cannot be made.
    """
    policy = EndpointPolicy(open_remote(model))
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfold"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot keep verdicts in {folder}: {error.strerror}; set XDG_CACHE_HOME") from None
    return Judge(model, policy.ask, folder / VERDICTS_FILE)


def _verdict(reply: str, model: str) -> bool | CallError:
    """A reply that begins or ends with yes or no, and does not begin with one and end with the other."""
    words = _WORDS.findall(_THOUGHT.sub("", reply).lower())
    said = {word for word in (*words[:1], *words[-1:]) if word in ("yes", "no")}
    if len(said) == 1:
        return said == {"yes"}
    line = " ".join(reply.split())
    shown = line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."
    return CallError("judge", f"{model} replied {shown!r}; wanted: yes or no; name another judge")


def _read(path: Path) -> dict[str, bool]:
    """What was kept; a line that cannot be read, such as one that a kill cut short, is asked for again."""
    known: dict[str, bool] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            found = json.loads(line)
            known[found["key"]] = found["verdict"] is True
        except (ValueError, KeyError, TypeError):
            continue
    return known
