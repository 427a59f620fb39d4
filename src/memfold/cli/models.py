"""`memfold models`: lists the models that memfold is known to work with, which of them are here, and what they need."""

from __future__ import annotations

from memfold.cli.options import Json

NAME = "models"


def command(as_json: Json = False) -> None:
    """List known models: what they are for, whether they are here, what they need, and how to get them.

    Other models work too: any causal language model of transformers, in a folder or by its Hugging Face id.
    """
    from memfold.backbone.named.known import MODELS
    from memfold.cli.output import print_json, screen
    from memfold.core.registry import text_systems

    text = list(text_systems())
    records = [
        {
            "name": model.name,
            "about": model.about,
            "systems": list(model.systems) or text,
            "present": model.is_present,
            "gigabytes": model.gigabytes,
            "get": model.get,
        }
        for model in MODELS
    ]
    if as_json:
        print_json({"models": records})
        return
    rows = [("--model", "for", "here", "GB", "what it is")]
    for model, record in zip(MODELS, records, strict=True):
        here = "yes" if record["present"] else "no"
        rows.append((model.name, ", ".join(model.systems) or "text", here, f"{model.gigabytes:g}", model.about))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, systems, here, size, about in rows:
        line = f"{name:<{widths[0]}}  {systems:<{widths[1]}}  {here:<{widths[2]}}  {size:>{widths[3]}}  {about}"
        screen().print(line, markup=False)
    for model in MODELS:
        if not model.is_present:
            screen().print(f"to get {model.name}: {model.get}", markup=False)
