"""A model of its own that encodes documents for a backbone, trained along with it.

It may be smaller: only the tokenizer must be the same, since groups are counted in the backbone's tokens.  Its head
leads from its hidden states to slots of the backbone's size.  Left out: an encoder that stays as it is while the
decoder alone is trained by reinforcement.
"""

from __future__ import annotations

from torch import nn

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.resolve import model_folder
from memfold.core.errors import CheckpointError, ConfigError
from memfold.systems.pooled.head import HEAD


def give_encoder(backbone: Backbone, where: str) -> None:
    """Have the model of another folder encode documents; the heads that either had for its own slots go.

    Raises:
        ConfigError: when the backbone has an encoder already.
        CheckpointError: without a model there, or for one that reads other tokens.
    """
    if backbone.encoder is not None:
        raise ConfigError(
            f"encoder = {where!r} is not possible: {backbone.name!r} has an encoder already; leave it out"
        )
    encoder = load_backbone(model_folder(where), str(backbone.device))
    _check_tokens(encoder, where, backbone)
    encoder.encoder, encoder.reads = None, ()
    for one in (encoder, backbone):
        if HEAD in one.heads:
            del one.heads[HEAD]
    backbone.set_encoder(encoder)


def train_encoder(backbone: Backbone) -> list[tuple[str, nn.Parameter]]:
    """What can be trained of the encoder, by name under `encoder.`; nothing where the backbone encodes for itself.

    From here on the encoder is no longer the files that it came from.
    """
    encoder = backbone.encoder
    if encoder is None:
        return []
    encoder.folder = encoder.stored_fingerprint = None
    unused = encoder.model.get_output_embeddings().weight
    tied = unused is encoder.model.get_input_embeddings().weight
    return [(f"encoder.{name}", weight) for name, weight in encoder.parameters() if tied or weight is not unused]


def _check_tokens(encoder: Backbone, where: str, backbone: Backbone) -> None:
    """Refuse an encoder for other tokens than the backbone's.

    Tokens that only one side has, such as those around slots, do no harm where they lie behind the others.
    """
    ours, theirs = backbone.tokenizer.get_vocab(), encoder.tokenizer.get_vocab()
    common = ours.keys() & theirs.keys()
    for token in sorted(common, key=ours.__getitem__):
        if ours[token] != theirs[token]:
            raise CheckpointError(
                f"encoder {where} reads other tokens: {token!r} is {theirs[token]} to it and {ours[token]} to the "
                "model; both need one tokenizer"
            )
    rows = len(encoder.model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(common) < min(len(ours), len(theirs)) or rows <= max(ours.values()):
        raise CheckpointError(
            f"encoder {where} reads other tokens: {len(common)} of the model's {len(ours)} are among its "
            f"{len(theirs)}, with embeddings for {rows}; both need one tokenizer"
        )
