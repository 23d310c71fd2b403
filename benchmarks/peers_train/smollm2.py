"""Reads SmolLM2-135M and its reviews once, and writes them where every start finds them within a second.

    python -m benchmarks.peers_train.smollm2 FOLDER LENGTH

Writes FOLDER/weights (fp32, as `save_pretrained` writes them), and last FOLDER/tokens.npz in blocks of LENGTH tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.smollm2.model import source
from examples.smollm2.tokenise import reviews, tokenised

_NUM_DOCUMENTS = 400


def main(folder: Path, length: int) -> None:
    """Read, tokenise, write."""
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found,unused-ignore]

    quantized: Any = AutoModelForCausalLM.from_pretrained(**source(), dtype=torch.float32)
    quantized.config.quantization_config = None
    model: Any = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32)  # one that knows of no GGUF can be written
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder / "weights")
    inputs_NT, vocab_size = tokenised(reviews()[:_NUM_DOCUMENTS], length=length)
    np.savez(folder / "tokens.npz", inputs=inputs_NT, vocab_size=vocab_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
