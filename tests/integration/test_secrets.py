"""Secrets stay secret: a small real flow, every kind of failure, and a search through all that they leave behind."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.traceback import Traceback

from foundry_ray import registry
from foundry_ray.artifacts import embedded, open_store
from foundry_ray.artifacts.arrow import arrow_filesystem
from foundry_ray.artifacts.manifests import publish, put_json
from foundry_ray.clock import SystemClock
from foundry_ray.config import ServeConfig, Settings, StoreConfig, load_config, settings, signing_keys
from foundry_ray.context import Context
from foundry_ray.errors import FoundryError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry.signatures import open_keys
from foundry_ray.runtime import jobs
from foundry_ray.runtime.dashboard import Dashboard
from foundry_ray.runtime.env import child_env
from foundry_ray.runtime.package import pack
from foundry_ray.serving.spec import spec_of
from foundry_ray.testing import samples
from foundry_ray.testing.commands import Commands, Outcome
from foundry_ray.testing.exchanges import refusal
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.served import Served, served
from foundry_ray.types import CompressionRecipe, ModelArtifact, RegistryEntry, to_json

PLANTED = "planted-secret-of-an-aws-account-0123456789"
PIPELINE = "name: small\nstore: embedded\ndata: {source: mnist_5k}\n"


@dataclass(frozen=True)
class Scene:
    """A store in use, and what must be seen nowhere. `outcomes` are the commands that ran."""

    server: Served
    commands: Commands = field(repr=False)
    entry: RegistryEntry
    outcomes: tuple[Outcome, ...] = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)

    def found_in(self, texts: Iterable[str | bytes]) -> list[str]:
        """The texts that hold a secret, cut short."""
        plain = [text if isinstance(text, bytes) else text.encode(errors="replace") for text in texts]
        return [repr(text[:80]) for text in plain if any(secret in text for secret in self.secrets)]


def _secrets_of(server: Served, signing_key: str) -> tuple[bytes, ...]:
    store = server.settings.home / "store"
    state = json.loads((store / "state.json").read_text())
    private = (store / "tls" / "node.key").read_text().splitlines()[1]  # what follows is public, and in the certificate too
    body = signing_key.strip().rpartition(":")[2]
    return tuple(text.encode() for text in (state["secret_key"], *state["jwt_keys"], private, body, PLANTED))


def _register(store: ArtifactStore) -> RegistryEntry:
    artifact = publish(store, kind="model", files={"model.onnx": b"onnx"}, created_at="2026-01-01")
    model = ModelArtifact(artifact=artifact, family="resnet", num_params=1, num_macs=1, size_bytes=4, recipe=CompressionRecipe())
    put_json(store, "stages/evaluation/1.json", {"outputs": to_json(samples.report())})
    return registry.register(
        store, name="mnist", model=model, report_key="stages/evaluation/1.json", passed=False, run_id="r", clock=SystemClock(), keys=signing_keys()
    )


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with served(retry_s=0.5) as server, pytest.MonkeyPatch.context() as patch:
        work = server.folder / "work"
        work.mkdir()
        (work / "pipeline.yaml").write_text(PIPELINE)
        Commands(home=server.settings.home, folder=work).run("models", "keygen", "-o", str(work / "signing.key"))
        signing_key = (work / "signing.key").read_text()
        (work / "signing.key").unlink()
        planted = {
            "FOUNDRY_SIGNING_KEY": signing_key.strip(),
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": PLANTED,
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        }
        for name, value in {**planted, "FOUNDRY_HOME": str(server.settings.home)}.items():
            patch.setenv(name, value)
        commands = Commands(home=server.settings.home, folder=work, env=planted)
        entry = _register(server.open())
        asked = ("store serve", "store status", "store du", "store verify", "models list", "models show mnist:1", "runs list", "schema")
        outcomes = [commands.run(*one.split(), *extra) for one in asked for extra in ((), ("--json",))]
        outcomes += [
            commands.run(*one.split())
            for one in ("models show nothing", "models verify mnist:1", "doctor", "plan pipeline.yaml", "store du --store s3://b/x")
        ]
        yield Scene(server, commands, entry, tuple(outcomes), _secrets_of(server, signing_key))


def test_the_search_finds_what_is_there(scene: Scene) -> None:
    assert len(scene.secrets) >= 8
    assert scene.found_in([f"AWS_SECRET_ACCESS_KEY={PLANTED}", "nothing"]) == [repr(f"AWS_SECRET_ACCESS_KEY={PLANTED}".encode())]


def test_no_command_prints_a_secret(scene: Scene) -> None:
    codes = [outcome.code for outcome in scene.outcomes]
    assert codes.count(0) > 10
    assert codes[-1] == 4
    assert scene.found_in(text for outcome in scene.outcomes for text in (outcome.stdout, outcome.stderr)) == []


def test_secrets_lie_in_private_files_made_for_them_and_nowhere_else(scene: Scene) -> None:
    home = scene.server.settings.home
    holders = [path for path in home.rglob("*") if path.is_file() and scene.found_in([path.read_bytes()])]
    assert {str(path.relative_to(home)) for path in holders} == {"credentials", "store/state.json", "store/s3.json", "store/tls/node.key"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    assert (home / "store").stat().st_mode & 0o777 == 0o700


def test_no_process_shows_a_secret_in_its_arguments(scene: Scene) -> None:
    assert embedded.status(scene.server.settings) is not None
    shown = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, timeout=30, check=True).stdout
    assert b"-s3.config=" in shown
    assert scene.found_in(shown.splitlines()) == []


def test_no_object_of_the_store_holds_a_secret(scene: Scene) -> None:
    store = scene.server.open()
    keys = [info.key for info in store.list("")]
    assert any(key.startswith("registry/mnist/") for key in keys)
    assert scene.found_in([*keys, *map(store.get, keys)]) == []


def test_what_a_job_takes_along_holds_no_secret(scene: Scene) -> None:
    path = scene.commands.folder / "pipeline.yaml"
    package = pack(path, load_config(path), store=None, overrides=(), scale="smoke")
    request = jobs._request("foundry run", "job-1", package, "small", {"FOUNDRY_HOME": str(scene.server.settings.home)}, 0)
    assert scene.found_in([package.content, json.dumps(request), repr(package)]) == []


def _values(scene: Scene) -> list[object]:
    """Everything in the path of a secret, of each kind of store; opened and used, so that what is kept is kept."""
    server = scene.server
    stores = [server.open(), open_store(server.config(f"http://127.0.0.1:{server.port}"), settings=server.settings)]
    for store in stores:
        list(store.list("registry/"))
    spec = spec_of(scene.entry, ServeConfig(), store=StoreConfig(), settings=server.settings)
    state = embedded.status(server.settings)
    return [*stores, *map(arrow_filesystem, stores), server.settings, settings(), spec, state, scene.entry]


def test_pickles_carry_no_secret_and_work_where_they_land(scene: Scene) -> None:
    values = _values(scene)
    pickles = [pickle.dumps(value) for value in values]
    assert scene.found_in(pickles) == []
    assert [info.key for info in pickle.loads(pickles[1]).list("registry/")] == [info.key for info in values[0].list("registry/")]  # type: ignore[attr-defined]


def test_no_repr_shows_a_secret(scene: Scene) -> None:
    with Context(
        settings=scene.server.settings, reporter=RecordingReporter(), clock=SystemClock(), store_config=StoreConfig(), is_kept=True
    ) as context:
        stores = [value for value in [context.store, *_values(scene)] if isinstance(value, ArtifactStore)]
    inner = [one for store in stores for one in (store.inner, store.inner.__dict__)]  # type: ignore[attr-defined]
    endpoints = [embedded._endpoint(scene.server.settings), embedded.read_secrets(scene.server.settings.home / "store")]
    keys = [signing_keys(), open_keys(), open_keys().signer, child_env(settings()), Dashboard(url="http://127.0.0.1:1", token=PLANTED)]
    values = [*_values(scene), context, *inner, *endpoints, *keys]
    assert scene.found_in(show(value) for value in values for show in (repr, str)) == []


def _wrong_secret(scene: Scene, folder: Path) -> object:
    credentials = folder / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"[default]\naws_access_key_id={scene.server.signer.access_key}\naws_secret_access_key={PLANTED}\n")
    config = scene.server.config(f"http://127.0.0.1:{scene.server.port}", credentials_file=credentials)
    return open_store(config, settings=Settings(home=folder / "home"))


def _nobody_there(scene: Scene, folder: Path) -> object:
    return open_store(scene.server.config("http://127.0.0.1:1"), settings=Settings(home=folder / "home"))


def _refused_write(scene: Scene, folder: Path) -> object:
    def refuse(request: object, forward: Callable[[object], object]) -> object:
        return refusal(403, "AccessDenied") if request.operation == "PutObject" else forward(request)  # type: ignore[attr-defined]

    with Proxy(scene.server.port, refuse) as proxy:  # type: ignore[arg-type]
        store = open_store(scene.server.config(proxy.url), settings=Settings(home=folder / "home", store_retry_s=0.1))
        return store.put("refused", b"1")


def _wrong_settings(scene: Scene, folder: Path) -> object:
    return open_store(scene.server.config("http://127.0.0.1:1", uri="s3://Not A Bucket/x"), settings=Settings(home=folder / "home"))


def _missing_authority(scene: Scene, folder: Path) -> object:
    return open_store(scene.server.config("https://127.0.0.1:1", ca_bundle=folder / "none.pem"), settings=Settings(home=folder / "home"))


def _wrong_variable(scene: Scene, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_STORE_RETRY_S", "soon")
        return settings()


def _two_signing_keys(scene: Scene, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_SIGNING_KEY_FILE", "x")
        return signing_keys()


def _no_signing_key(scene: Scene, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_SIGNING_KEY", PLANTED)
        return open_keys()


def _denied_by_cluster(scene: Scene, folder: Path) -> object:
    return Dashboard(url="http://127.0.0.1:1", token=embedded.read_secrets(scene.server.settings.home / "store").secret_key).get("/")  # type: ignore[union-attr]


def _stopped_home(scene: Scene, folder: Path) -> Settings:
    """A home with the same secrets, whose server does not run."""
    (folder / "home" / "store").mkdir(parents=True)
    shutil.copy2(scene.server.settings.home / "store" / "state.json", folder / "home" / "store")
    return Settings(home=folder / "home")


def _full_disk(scene: Scene, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _no_space)
        return embedded.serve(_stopped_home(scene, folder))


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def _no_shell(scene: Scene, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foundry_ray.artifacts._weed.LAUNCHER", ("/no/such/shell",))
        return embedded.serve(_stopped_home(scene, folder))


@pytest.mark.parametrize(
    "action",
    [
        _wrong_secret,
        _nobody_there,
        _refused_write,
        _wrong_settings,
        _missing_authority,
        _wrong_variable,
        _two_signing_keys,
        _no_signing_key,
        _denied_by_cluster,
        _full_disk,
        _no_shell,
    ],
)
def test_no_error_shows_a_secret_even_with_the_local_variables_of_its_frames(
    scene: Scene, tmp_path: Path, action: Callable[[Scene, Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error, shown = _failure(action, scene, tmp_path)
    texts = [str(error), repr(error), repr(error.facts), *shown, caplog.text, *(repr(record.args) for record in caplog.records)]
    assert scene.found_in([*texts, pickle.dumps(error)]) == []


def _failure(action: Callable[[Scene, Path], object], scene: Scene, folder: Path) -> tuple[FoundryError, list[str]]:
    """The error, and its traceback as the standard library, rich and pytest print it with all that they can tell."""
    try:
        action(scene, folder)
    except FoundryError as error:
        told = io.StringIO()
        Console(file=told, width=10_000).print(
            Traceback.from_exception(
                type(error), error, error.__traceback__, show_locals=True, locals_max_length=None, locals_max_string=None, locals_hide_sunder=False
            )
        )
        plain = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        tested = pytest.ExceptionInfo.from_exception(error).getrepr(showlocals=True, truncate_locals=False)
        assert "scene" in plain, "the local variables are shown"
        return error, [told.getvalue(), plain, str(tested)]
    raise AssertionError(f"{action.__name__} did not fail")


def test_what_boto3_does_is_not_logged(scene: Scene) -> None:
    code = (
        "import logging; from foundry_ray.artifacts import open_store; from foundry_ray.config import settings;"
        "open_store('embedded', settings=settings()).put('logged', b'1');"
        "print({name: (logging.getLogger(name).isEnabledFor(logging.INFO), [type(one).__name__ for one in logging.getLogger(name).handlers])"
        " for name in ('boto3', 'botocore', 'urllib3', 's3transfer')})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "True" not in told
    assert "StreamHandler" not in told
