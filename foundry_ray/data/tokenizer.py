"""What makes token ids of texts: a tokenizer of the library `tokenizers`, trained on the training split alone or read from a file.

It is kept as the library's own JSON, with its length and its padding inside, so that whoever has the file makes the same ids of the same text:
the data set holds it, and so does every model that is served of it. Shapes: N texts, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_ray.assets import in_package
from foundry_ray.config import TextConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.protocols import RawData
from foundry_ray.types import TokenSchema

if TYPE_CHECKING:
    import numpy as np

FILE = "tokenizer.json"
_TRAINED = "wordpiece"
_PADDING, _UNKNOWN = "[PAD]", "[UNK]"
_PADDINGS = (_PADDING, "<pad>")
_LETTERS_SHARE = 4  # of the vocabulary, at the most, is for single letters: mails hold thousands, most of them once
_KEY = "data.text.tokenizer"


class Tokenizer:
    """Texts in, rows of ids out, all of one length.

    Args:
        document: The library's JSON, with truncation and padding.
    """

    def __init__(self, document: str) -> None:
        try:
            self._inner: Any = _library().Tokenizer.from_str(document)
        except Exception as error:  # the library raises plain Exception
            raise ArtifactCorrupt(f"{FILE} is no tokenizer: {error}.", hint="prepare the data set again: `--fresh data`.", key=FILE) from error
        if self._inner.padding is None or self._inner.truncation is None:
            raise ArtifactCorrupt(f"{FILE} neither pads nor cuts, wanted rows of one length.", hint="prepare the data set again.", key=FILE)
        self.document = document
        self.padding = int(self._inner.padding["pad_id"])
        self.length = int(self._inner.padding["length"])
        self.vocab_size = int(max(self._inner.get_vocab(with_added_tokens=True).values())) + 1  # ids may have gaps

    @property
    def sha256(self) -> str:
        """Of the JSON."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Ids, int32 (N, T)."""
        import numpy as np

        return np.array([row.ids for row in self._inner.encode_batch(list(texts))], dtype=np.int32).reshape(len(texts), self.length)


def fit(texts: Sequence[str], config: TextConfig) -> Tokenizer:
    """A WordPiece vocabulary (arXiv 1609.08144) of these texts, lower-case, without accents. Equal texts give equal vocabularies.

    The library numbers letters inside of words as it meets them, in an order that changes from call to call, and breaks ties by these numbers. So
    they are given to it, as special tokens, which they are no more in what comes out.
    """
    learning = _wordpiece({})
    letters = _letters(learning, texts, limit=config.vocab_size // _LETTERS_SHARE)
    trainer = _library().trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[_PADDING, _UNKNOWN, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    learning.train_from_iterator(iter(texts), trainer, length=len(texts))
    learnt = _wordpiece(learning.get_vocab(with_added_tokens=True))
    learnt.add_special_tokens([_PADDING, _UNKNOWN])
    return _sized(learnt, config.length)


def read(path: Path, config: TextConfig) -> Tokenizer:
    """The tokenizer of a file, at the configured length. Raises ConfigError where it is none, or has nothing to pad with."""
    return sized(path.read_text(encoding="utf-8"), config.length, what=f"{_KEY} is {config.tokenizer!r}, which")


def sized(document: str, length: int, *, what: str) -> Tokenizer:
    """The tokenizer of the library's JSON, cutting and padding to a length. Raises ConfigError, which begins with `what`, where there is none."""
    try:
        return _sized(_library().Tokenizer.from_str(document), length)
    except ConfigError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"{what} is no tokenizer: {error}.", hint="give the library's own JSON, as a tokenizer.json has it.") from error


def file_of(config: TextConfig) -> Path | None:
    """The file of a tokenizer that is read; None where one is trained. Raises ConfigError where it is not there."""
    return None if config.tokenizer == _TRAINED else in_package(config.tokenizer, key=_KEY)


def planned_schema(config: TextConfig, classes: tuple[str, ...]) -> TokenSchema:
    """What rows will look like, before a tokenizer is trained: its vocabulary may come out smaller than what it may have."""
    path = file_of(config)
    padding, vocab_size = (0, config.vocab_size) if path is None else _sizes(read(path, config))
    return TokenSchema(length=config.length, vocab_size=vocab_size, has_labels=True, classes=classes, padding=padding)


def tokenised(raw: RawData, train_N: np.ndarray, config: TextConfig) -> tuple[RawData, Tokenizer]:
    """Texts as ids, by a tokenizer that has seen the training rows alone, and that tokenizer.

    Args:
        raw: Holds texts.
        train_N: Numbers of the rows of the training split.
        config: How.
    """
    path = file_of(config)
    # in the order of the source: the order of a split is no business of the vocabulary's
    tokenizer = fit([raw.inputs_N[row] for row in sorted(train_N.tolist())], config) if path is None else read(path, config)
    inputs_NT = tokenizer.encode(raw.inputs_N.tolist())
    schema = TokenSchema(
        length=config.length, vocab_size=tokenizer.vocab_size, has_labels=True, classes=raw.schema.classes, padding=tokenizer.padding
    )
    num_blank = int((inputs_NT == tokenizer.padding).all(axis=1).sum())
    blank = (f"{num_blank} texts of {len(inputs_NT)} have no token that the tokenizer knows",) if num_blank else ()
    return replace(raw, inputs_N=inputs_NT, schema=schema, notes=(*raw.notes, *blank)), tokenizer


def _wordpiece(vocabulary: dict[str, int]) -> Any:
    library = _library()
    inner = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token=_UNKNOWN))
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return inner


def _letters(inner: Any, texts: Sequence[str], *, limit: int) -> list[str]:
    """The most common characters of the normalised texts, in the order of their code; words with another one are unknown."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(inner.normalizer.normalize_str(text))
    common = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    return sorted(common[:limit])


def _sizes(tokenizer: Tokenizer) -> tuple[int, int]:
    return tokenizer.padding, tokenizer.vocab_size


def _sized(inner: Any, length: int) -> Tokenizer:
    """A tokenizer that cuts and pads to one length, as its JSON says from then on."""
    known = inner.get_vocab(with_added_tokens=True)
    name = next((name for name in _PADDINGS if name in known), None)
    if name is None:
        message = f"the tokenizer has no token to pad with, wanted one of {', '.join(_PADDINGS)}."
        raise ConfigError(message, hint=f"give another tokenizer.json ({_KEY} in a pipeline).")
    inner.enable_truncation(length)
    inner.enable_padding(length=length, pad_id=known[name], pad_token=name)
    return Tokenizer(json.dumps(json.loads(inner.to_str()), sort_keys=True, ensure_ascii=False))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError("texts need the library tokenizers, which is not installed.", hint='pip install "foundry-ray[text]"') from error
    return tokenizers
