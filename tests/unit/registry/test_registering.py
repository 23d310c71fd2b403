"""One model, one version; aliases are a history; `champion` is earned."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.manifests import publish
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError, Conflict, RolloutRejected
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, ModelArtifact, RegistryEntry


def _model(store: MemoryStore, weights: bytes) -> ModelArtifact:
    artifact = publish(store, kind="model", files={"model.onnx": weights}, created_at="2024-01-01")
    return ModelArtifact(artifact=artifact, family="resnet", num_params=10, num_macs=20, size_bytes=len(weights), recipe=CompressionRecipe())


def _register(store: MemoryStore, weights: bytes, *, passed: bool = True, report: str = "report-1", name: str = "mnist") -> RegistryEntry:
    model = _model(store, weights)
    return registry.register(store, name=name, model=model, report_key=report, passed=passed, run_id="run-1", clock=FakeClock())


def _point(store: MemoryStore, alias: str, version: int) -> registry.AliasMove:
    return registry.Registry(store, clock=FakeClock()).set_alias("mnist", alias, version)


def test_a_passed_model_is_registered_and_champion(store: MemoryStore) -> None:
    entry = _register(store, b"one")
    assert (entry.version, entry.passed, entry.aliases, entry.report, entry.run_id) == (1, True, ("champion",), "report-1", "run-1")
    assert entry.created_at == "2023-11-14T22:13:20+00:00"
    assert registry.show(store, "mnist@champion") == registry.show(store, "mnist:1") == registry.show(store, "mnist") == entry
    assert registry.resolve(store, "mnist@champion") == entry


def test_the_same_model_has_the_same_version(store: MemoryStore) -> None:
    assert [_register(store, weights).version for weights in (b"one", b"two", b"one", b"two")] == [1, 2, 1, 2]
    assert [entry.version for entry in registry.versions(store, "mnist")] == [1, 2]


def test_a_failed_model_is_kept_and_does_not_move_the_champion(store: MemoryStore) -> None:
    _register(store, b"one")
    second = _register(store, b"two", passed=False)
    assert (second.version, second.passed, second.aliases) == (2, False, ())
    assert registry.resolve(store, "mnist@champion").version == 1


def test_promoting_what_did_not_pass_is_refused_with_exit_code_3(store: MemoryStore) -> None:
    _register(store, b"one", passed=False)
    with pytest.raises(
        RolloutRejected, match=r"mnist:1 cannot become champion: its report did not pass the gates \(its report is gone.*Hint: `foundry models show"
    ) as caught:
        _point(store, "champion", 1)
    assert caught.value.exit_code == 3
    assert _point(store, "candidate", 1).version == 1


def test_a_later_report_that_passes_promotes_the_same_version(store: MemoryStore) -> None:
    _register(store, b"one", passed=False)
    entry = _register(store, b"one", passed=True, report="report-2")
    assert (entry.version, entry.passed, entry.report, entry.aliases) == (1, True, "report-2", ("champion",))


def test_an_alias_keeps_its_history(store: MemoryStore) -> None:
    for weights in (b"one", b"two"):
        _register(store, weights)
    _point(store, "champion", 1)
    moves = registry.history(store, "mnist", "champion")
    assert [(move.number, move.previous, move.version) for move in moves] == [(1, None, 1), (2, 1, 2), (3, 2, 1)]


def test_registering_again_does_not_undo_a_rollback(store: MemoryStore) -> None:
    for weights in (b"one", b"two"):
        _register(store, weights)
    _point(store, "champion", 1)
    _register(store, b"two")
    assert registry.resolve(store, "mnist@champion").version == 1


def test_a_promotion_that_broke_off_is_made_up_for(store: MemoryStore) -> None:
    _register(store, b"one")
    for key in [key for key in store.objects if "/aliases/" in key]:
        del store.objects[key]
    assert _register(store, b"one").aliases == ("champion",)


def test_a_promotion_on_a_later_report_that_broke_off_is_made_up_for(store: MemoryStore) -> None:
    for weights in (b"one", b"two"):
        _register(store, weights)
    _register(store, b"one", report="report-2")
    del store.objects["registry/mnist/aliases/champion/00000003"]
    assert _register(store, b"one", report="report-2").aliases == ("champion",)
    _point(store, "champion", 2)
    assert _register(store, b"one", report="report-2").aliases == ()


def test_a_report_that_fails_in_between_leaves_the_version_registered() -> None:
    store = _Judged()
    assert (_register(store, b"one").aliases, registry.resolve(store, "mnist:1").passed) == ((), False)


def test_an_import_says_what_counts_in_one_write(store: MemoryStore) -> None:
    record = registry.Version(model=_model(store, b"one"), run_id="r", created_at="2026-01-01")
    verdicts = [registry.Verdict(report=name, passed=name == "old", run_id="r", created_at="", after_move=3) for name in ("old", "new")]
    assert registry.adopt(store, name="mnist", record=record, verdicts=verdicts) == 1
    assert len([key for key in store.objects if "/reports/" in key]) == 1
    entry = registry.resolve(store, "mnist:1")
    assert (entry.report, entry.passed) == ("new", False)


@pytest.mark.parametrize(
    "stray", ["models/readme.txt", "versions/7", "versions/readme", "aliases/00000009", "aliases/a/b/00000001", "reports/00000001"]
)
def test_a_stray_object_is_no_part_of_the_registry(store: MemoryStore, stray: str) -> None:
    _register(store, b"one")
    store.put(f"registry/mnist/{stray}", b"?")
    assert _register(store, b"two").version == 2
    assert [entry.aliases for entry in registry.versions(store, "mnist")] == [(), ("champion",)]


def test_a_version_that_nobody_can_read_keeps_no_model_from_registering(store: MemoryStore) -> None:
    _register(store, b"one")
    store.objects["registry/mnist/versions/00000001"] = b"{"
    assert _register(store, b"one").version == 2


class _Judged(MemoryStore):
    """As soon as a report is added, another run adds one that did not pass."""

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        super().put(key, source, if_absent=if_absent)
        if key.endswith("reports/00000001/00000001"):
            super().put(key[:-1] + "2", bytes(source).replace(b'"passed":true', b'"passed":false'))


class _Overtaken(MemoryStore):
    """Somebody else creates a chosen object just before us."""

    rival = ""

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        if self.rival and self.rival in key:
            self.rival = ""
            super().put(key, source)
        super().put(key, source, if_absent=if_absent)


def test_of_two_promotions_at_once_one_gets_a_conflict() -> None:
    store = _Overtaken()
    _register(store, b"one")
    store.rival = "/aliases/candidate/"
    with pytest.raises(
        Conflict, match=r"mnist@candidate was moved by somebody else at the same moment: .* Hint: `foundry models history mnist@candidate`"
    ):
        _point(store, "candidate", 1)
    assert len(registry.history(store, "mnist", "candidate")) == 1


def test_two_registrations_of_one_model_at_once_give_one_version() -> None:
    store = _Overtaken()
    store.rival = "/versions/"
    assert _register(store, b"one").version == 1
    assert len(registry.versions(store, "mnist")) == 1


def test_an_unknown_name_is_answered_with_the_nearest(store: MemoryStore) -> None:
    _register(store, b"one")
    with pytest.raises(ArtifactNotFound, match=r"no model is registered as 'mnits'; registered: mnist\. Hint: did you mean `mnist`\?"):
        registry.resolve(store, "mnits@champion")
    with pytest.raises(ArtifactNotFound, match="registered: none"):
        registry.versions(MemoryStore(), "mnist")


def test_an_unknown_version_or_alias_is_answered_with_the_known_ones(store: MemoryStore) -> None:
    _register(store, b"one")
    with pytest.raises(ArtifactNotFound, match=r"mnist has no version 7; versions: 1\. Hint: for example `mnist:1`"):
        registry.resolve(store, "mnist:7")
    with pytest.raises(ArtifactNotFound, match=r"mnist has no alias 'old'; aliases: champion; versions: 1\."):
        registry.resolve(store, "mnist@old")
    with pytest.raises(ArtifactNotFound, match="mnist has no version 2"):
        _point(store, "candidate", 2)


@pytest.mark.parametrize("reference", ["", "@champion", "a/b@champion", "mnist:x", "mnist:", "mnist@", "mnist@../x", "mnist:1:2", "mnist:-1"])
def test_a_malformed_reference_is_refused(store: MemoryStore, reference: str) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        registry.resolve(store, reference)


def test_pulled_files_are_verified(store: MemoryStore, tmp_path: Path) -> None:
    entry = _register(store, b"one")
    assert registry.pull(store, entry, tmp_path / "good")["model.onnx"].read_bytes() == b"one"
    for key in [key for key in store.objects if key.startswith("blobs/")]:
        store.objects[key] = b"two"
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256"):
        registry.pull(store, entry, tmp_path / "bad")
    assert list((tmp_path / "bad").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"mnist:1 cannot be written into .*file: File exists\. Hint: name another folder"):
        registry.pull(store, _register(store, b"one"), tmp_path / "file")


def test_a_reference_where_a_name_is_wanted_is_told_so(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match=r"'mnist@staging' is no model name, .* Hint: give the name alone: `mnist`\."):
        registry.versions(store, "mnist@staging")


def test_names_and_the_class_for_programs_agree(store: MemoryStore) -> None:
    for name in ("mnist", "fashion"):
        _register(store, b"one", name=name)
    facade = registry.Registry(store)
    assert facade.names() == registry.names(store) == ("fashion", "mnist")
    assert facade.resolve("mnist") == facade.versions("mnist")[0]
