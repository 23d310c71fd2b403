"""The family `pretrained`: a BERT checkpoint (arXiv 1810.04805), such as MiniLM, read through transformers' AutoModel, with a classifier on top.

Its weights move into the encoder that the family `transformer` has, which computes the same: so it is pruned, trimmed, factorised, shrunk and
exported as any other, and neither describing it nor making it again, nor serving it, needs transformers. The classifier reads the mean over the
places, as sentence encoders do (arXiv 1908.10084).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_ray.assets import in_package
from foundry_ray.config import parse_params
from foundry_ray.errors import ConfigError, FingerprintMismatch
from foundry_ray.models import register
from foundry_ray.models.encoder import Encoder, EncoderSpec, Layer, LayerSpec
from foundry_ray.models.fronts import Reads
from foundry_ray.models.sizes import MINILM, PretrainedSize
from foundry_ray.models.transformer import TransformerFamily
from foundry_ray.types import ImageSchema, Json, Schema

_KEY = "teacher.model.params.source"
_WEIGHTS = "model.safetensors"
_SHA256 = {MINILM: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
"""What the weights of known packages are."""


@register("pretrained")
class PretrainedFamily(TransformerFamily):
    """A checkpoint's encoder; shrinking keeps its first layers and its strongest heads, units and channels."""

    name = "pretrained"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """The checkpoint's weights, and a fresh classifier.

        Raises:
            ConfigError: transformers or the weights are missing (the hint installs them), or rows are no tokens of this checkpoint.
            FingerprintMismatch: The weights of a known package are others.
        """
        source = parse_params(PretrainedSize, params, where="model family pretrained").source
        if isinstance(schema, ImageSchema):
            raise ConfigError("model family pretrained got images, wanted texts.", hint="choose cnn, resnet or transformer for images.")
        reads = Reads.of(schema, family=self.name)
        bert = _loaded(source, reads)
        encoder = Encoder(_spec(bert.config, reads, num_classes=len(schema.classes)))
        _copy(bert, encoder)
        return encoder


def _loaded(source: str, reads: Reads) -> Any:
    folder = in_package(source, key=_KEY)
    _verify(folder, source)
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        hint = 'pip install "foundry-ray[transformers]"'
        raise ConfigError("model family pretrained needs transformers, which is not installed.", hint=hint) from error
    try:
        _check(AutoConfig.from_pretrained(folder, local_files_only=True), reads, source)
        with _quiet():
            return AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{_KEY} is {source!r}, which transformers cannot load: {error}.", hint="name a folder with config.json.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar and the report of weights that are not wanted here: those of BERT's own pooling."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _verify(folder: Path, source: str) -> None:
    expected = _SHA256.get(source)
    if expected is None:
        return
    with (folder / _WEIGHTS).open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        message = f"{folder / _WEIGHTS} has sha256 {actual}, wanted {expected}."
        raise FingerprintMismatch(message, hint="install the package again.", expected=expected, actual=actual)


def _check(config: Any, reads: Reads, source: str) -> None:
    """Raises ConfigError for another architecture than BERT's, and for rows that are not its tokens."""
    act = getattr(config, "hidden_act", "")
    if config.model_type != "bert" or act not in ("gelu", "relu"):
        hint = "other architectures come by `family: import:package.module:factory`."
        got = f"{config.model_type} {act}".strip()
        raise ConfigError(f"{_KEY} is {source!r}, which is a {got}, wanted a BERT encoder with gelu or relu.", hint=hint)
    if reads.vocab_size != config.vocab_size:
        hint = f"set `data.text.tokenizer: {source.rstrip('/')}/tokenizer.json`."
        message = f"{_KEY} is {source!r} with {config.vocab_size} tokens, but the data set has {reads.vocab_size}: another tokenizer made it."
        raise ConfigError(message, hint=hint)
    if reads.length > config.max_position_embeddings:
        message = f"rows have {reads.length} tokens, but the checkpoint knows {config.max_position_embeddings} places."
        raise ConfigError(message, hint="lower `data.text.length`.")


def _spec(config: Any, reads: Reads, *, num_classes: int) -> EncoderSpec:
    heads = config.num_attention_heads
    layer = LayerSpec(heads=heads, head_dim=config.hidden_size // heads, hidden=config.intermediate_size)
    return EncoderSpec(
        family="pretrained",
        reads=reads,
        num_classes=num_classes,
        width=config.hidden_size,
        layers=(layer,) * config.num_hidden_layers,
        norm_after=True,
        activation=config.hidden_act,
        norm_eps=config.layer_norm_eps,
    )


def _copy(bert: Any, encoder: Encoder) -> None:
    """All of one sentence is of the first type, so that type's vector goes into the positions."""
    embeddings = bert.embeddings
    with torch.no_grad():
        encoder.embedding.weight.copy_(embeddings.word_embeddings.weight)
        typed: Tensor = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        encoder.positions.copy_(typed[: len(encoder.positions)])
    encoder.norm.load_state_dict(embeddings.LayerNorm.state_dict())
    for source, target in zip(bert.encoder.layer, encoder.layer_list(), strict=True):
        _copy_layer(source, target)


def _copy_layer(source: Any, target: Layer) -> None:
    attention = source.attention
    pairs = (
        (attention.self.query, target.attention.query),
        (attention.self.key, target.attention.key),
        (attention.self.value, target.attention.value),
        (attention.output.dense, target.attention.out),
        (attention.output.LayerNorm, target.first_norm),
        (source.intermediate.dense, target.first),
        (source.output.dense, target.second),
        (source.output.LayerNorm, target.second_norm),
    )
    for old, new in pairs:
        new.load_state_dict(old.state_dict())
