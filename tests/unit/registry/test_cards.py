"""A card says what people must know, and a pulled folder is all that serving needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import inference, registry
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.config import SigningKeys
from foundry_ray.registry.cards import recipe_in_words
from foundry_ray.reporting.card import card_markdown, write_card
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore

from .conftest import NOTE, lineage, put_version

STORE_V1 = Path(__file__).parents[2] / "data" / "store_v1.tar.gz"
_ONLY = "import sys; sys.modules.update(dict.fromkeys(('foundry_ray', 'torch', 'ray', 'onnx', 'boto3', 'pydantic')))\n"


@pytest.fixture
def store_v1(tmp_path: Path) -> LocalStore:
    with tarfile.open(STORE_V1) as archive:
        archive.extractall(tmp_path / "v1", filter="data")
    return LocalStore(tmp_path / "v1")


def test_numpy_and_onnxruntime_alone_serve_a_pulled_folder_as_its_card_says(store_v1: LocalStore, tmp_path: Path) -> None:
    card = registry.model_card(store_v1, "mnist:1", keys=SigningKeys())
    folder, images = tmp_path / "pulled", tmp_path / "images.npy"
    registry.pull(store_v1, card.entry, folder, keys=SigningKeys())
    write_card(card, folder / "MODEL_CARD.md")
    np.save(images, np.random.default_rng(0).integers(0, 256, (16, 1, 28, 28)).astype(np.uint8))
    _, _, rest = (folder / "MODEL_CARD.md").read_text().partition("```python\n")
    code = rest.partition("```")[0]
    done = subprocess.run([sys.executable, "-I", "-c", _ONLY + code, images], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    predicted = [answer["class"] for answer in inference.predict_files(store_v1, card.entry.model, images)]  # type: ignore[index,call-overload]
    assert json.loads(done.stdout) == predicted


def test_a_card_says_what_the_model_can_on_what_and_what_it_was_made_of(store: MemoryStore) -> None:
    put_version(store, b"one", lineage=lineage())
    registry.tag(store, "mnist", 1, {"owner": "ann|bob"}, note=NOTE)
    text = card_markdown(registry.model_card(store, "mnist@champion", keys=SigningKeys()))
    for said in (
        "# mnist:1",
        "| aliases | champion |",
        "| tags | owner=ann\\|bob |",
        "| signature | it is not signed |",
        "| accuracy | 98.00 % [97.00 %, 99.00 %] (n 1000) | 97.40 % [96.00 %, 98.00 %] (n 1000) |",
        "| accuracy_drop_points | 0.6 | <= 3 | passed |",
        "| this model | 0.100 ms [0.100, 0.100] | 0.200 ms | cpu, onnxruntime, 1 thread(s), batch 1, n 500 |",
        "| served file | 2.7 MiB | 234.4 KiB | 11.7x less |",
        "fingerprint ffffffffffff, source mnist_5k, split train 3500, val 500, test 1000",
        f"commit {'c' * 18}",
        "raw pixels, which it normalises itself",
    ):
        assert said in text
    assert "Warning" not in text


def test_a_card_warns_of_a_fallen_champion_and_a_report_that_is_gone(store: MemoryStore) -> None:
    entry = put_version(store, b"one")
    store.delete(entry.report)
    card = registry.model_card(store, "mnist", keys=SigningKeys())
    assert card.evaluation is None
    assert card.warnings == ("its report cannot be read; `foundry run` with the same pipeline evaluates it again.",)
    assert "> **Warning:** its report cannot be read" in card_markdown(card)


def test_the_card_that_was_published_with_a_model_stands_behind_what_the_registry_knows(store: MemoryStore, tmp_path: Path) -> None:
    entry = put_version(store, b"one")
    card = registry.model_card(store, "mnist", keys=SigningKeys())
    assert registry.published_card(store, entry) == ""
    published = "# resnet, image_classification\n\n## Licence\n\n- Of the model: MIT\n\n## How to serve it\n\nSo.\n"
    (tmp_path / "MODEL_CARD.md").write_text(published)
    write_card(card, tmp_path / "MODEL_CARD.md")
    text = (tmp_path / "MODEL_CARD.md").read_text()
    assert text == card_markdown(card, published)
    assert text.startswith("# mnist:1\n")
    assert text.index("## Gates") < text.index("- Of the model: MIT") < text.index("So.")
    assert text.count("## How to serve it") == 1


def test_a_recipe_is_told_in_words() -> None:
    assert recipe_in_words(samples.RECIPE) == [
        "shrink: a narrower or shallower network of the teacher's family (depth 1, width 12)",
        "quantize: numbers stored in fewer bits (bits 8)",
    ]
