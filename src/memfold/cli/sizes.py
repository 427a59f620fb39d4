"""Shows the size of a memory file for `fold` and `inspect`, next to the size of a full key/value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfold.cli.output import screen
from memfold.cli.printable import on_one_line
from memfold.memory import describe
from memfold.session import rebuild


@dataclass(frozen=True)
class Sizes:
    """The description of a memory file, and its effective ratio (None when the memory is the text itself)."""

    description: dict[str, Any]
    effective: float | None

    @classmethod
    def of(cls, path: Path) -> Sizes:
        """Read a memory file, and check all of it but slots that have checksums."""
        description = describe(path)
        system = rebuild(description["system"], description["settings"])
        description |= {"ratio": system.ratio, "stores_slots": system.stores_slots}
        return cls(description, system.effective_ratio(description["tokens"], description["slots"]))

    @property
    def tokens(self) -> int:
        """Return the number of tokens of all documents."""
        return int(self.description["tokens"])

    def record(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        effective = None if self.effective is None else round(self.effective, 3)
        return self.description | {"effective_ratio": effective}

    def show(self, title: str, details: bool = False, last: Sequence[tuple[str, str]] = ()) -> None:
        """Print a line for each figure; `details` adds lines on the documents, the system and the model.

        `last` are more lines, each with its label.
        """
        rows = [*(self._origin() if details else ()), *self._numbers(), *last]
        screen().print("\n".join([title, *(f"  {name:10}{on_one_line(value)}" for name, value in rows)]), markup=False)

    def _ratio(self) -> str:
        """Return the ratio of the settings, the counted tokens per slot, and those per decoder position if known."""
        found = self.description
        counted = f"{found['tokens'] / found['slots']:.1f}" if found["slots"] else "no"
        with_wrappers = "" if self.effective is None else f"; {self.effective:.2f} with wrappers"
        return f"{found['ratio']}: {counted} tokens per slot{with_wrappers}"

    def _origin(self) -> list[tuple[str, str]]:
        found = self.description
        shown_elsewhere = ("model", "kv_bytes_per_token")
        settings = (
            f"{name} {value}" for name, value in sorted(found["settings"].items()) if name not in shown_elsewhere
        )
        encoder = f" (fingerprint {found['fingerprint'][:12]})" if found["slots"] else ""
        documents = [f"{each['source']} (sha256 {each['sha256'][:16]})" for each in found["documents"]]
        return [
            *(("document", document) for document in documents),
            ("system", found["system"]),
            ("model", f"{found['settings'].get('model', 'unknown')}{encoder}"),
            ("settings", ", ".join(settings)),
            ("blocks", f"{found['blocks']:,}"),
        ]

    def _numbers(self) -> list[tuple[str, str]]:
        found, sizes, each = self.description, self.description["bytes"], self.description["bytes_per_token"]
        rows = [("tokens", f"{found['tokens']:,} in {found['characters']:,} characters")]
        if found["ratio"] and not found["stores_slots"]:
            rows.append(("slots", f"made from the text when they are read, at ratio {found['ratio']}; none is stored"))
        elif found["ratio"]:
            rows += [
                ("slots", f"{found['slots']:,} of {found['hidden']} values in {found['dtype']}"),
                ("ratio", self._ratio()),
            ]
        text = f"{sizes['text']:,} of compressed text" if sizes["text"] else "no text"
        rows.append(("bytes", f"{sizes['total']:,}: {sizes['slots']:,} of slots, {text}, {sizes['rest']:,} the rest"))
        cache = f"; a full KV cache takes {each['kv_cache']:,}" if each["kv_cache"] else ""
        rows.append(("per token", f"{each['without_text']:.1f} bytes without text, {each['total']:.1f} with it{cache}"))
        return rows
