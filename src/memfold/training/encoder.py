"""Adds a separate encoder: a second model that encodes documents for a backbone and is trained jointly with it.

It may be smaller.  Only the tokenizer must be the same, since groups are counted in the backbone's tokens.  Its head
projects its hidden states to slots of the backbone's size.  The frozen encoder of reinforcement learning is in
`memfold.rl`.
"""

from __future__ import annotations

from torch import nn

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.resolve import model_folder
from memfold.core.errors import CheckpointError, ConfigError


def give_encoder(backbone: Backbone, where: str) -> None:
    """Use the model of another folder to encode documents; removes the heads that both models had.

    Raises:
        ConfigError: when the backbone has an encoder already.
        CheckpointError: when there is no model, or its tokenizer differs.
    """
    if backbone.encoder is not None:
        raise ConfigError(
            f"encoder = {where!r} is not possible: {backbone.name!r} already has an encoder; leave it out"
        )
    encoder = load_backbone(model_folder(where), str(backbone.device))
    _check_tokens(encoder, where, backbone)
    encoder.encoder, encoder.reads = None, ()
    for model in (encoder, backbone):
        model.heads.clear()
    backbone.set_encoder(encoder)


def train_encoder(backbone: Backbone) -> list[tuple[str, nn.Parameter]]:
    """Return the trainable parameters of the encoder, named `encoder.*`; empty where the backbone encodes by itself.

    Forgets the folder and fingerprint of the encoder, since its weights will no longer match them.
    """
    encoder = backbone.encoder
    if encoder is None:
        return []
    encoder.folder = encoder.stored_fingerprint = None
    unused = encoder.model.get_output_embeddings().weight
    tied = unused is encoder.model.get_input_embeddings().weight
    return [(f"encoder.{name}", weight) for name, weight in encoder.parameters() if tied or weight is not unused]


def _check_tokens(encoder: Backbone, where: str, backbone: Backbone) -> None:
    """Refuse an encoder whose tokenizer differs from the backbone's.

    Tokens that only one side has, such as slot wrappers, are allowed after the common ones.
    """
    ours, theirs = backbone.tokenizer.get_vocab(), encoder.tokenizer.get_vocab()
    common = ours.keys() & theirs.keys()
    for token in sorted(common, key=ours.__getitem__):
        if ours[token] != theirs[token]:
            raise CheckpointError(
                f"encoder {where} has another tokenizer: {token!r} is {theirs[token]} there and {ours[token]} in the "
                "model; both must have the same"
            )
    rows = len(encoder.model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(common) < min(len(ours), len(theirs)) or rows <= max(ours.values()):
        raise CheckpointError(
            f"encoder {where} has another tokenizer: {len(common)} of the model's {len(ours)} tokens are among its "
            f"{len(theirs)}, with embeddings for {rows}; both must have the same"
        )
