"""The wheel, installed where no checkout is: what it holds, and the whole pipeline from an empty folder."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.testing.commands import Commands

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SHIPPED = ("cluster", "search_spaces", "serve")


def _python(*args: str | Path, python: str | Path = sys.executable) -> str:
    done = subprocess.run([str(python), *map(str, args)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: `pip install -e .[dev]`")
    folder = tmp_path_factory.mktemp("dist")
    _python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """An environment with the wheel and this one's libraries, and an empty folder.

    The line in the .pth file adds this environment's folder of libraries without its own .pth files, so without the editable checkout.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv, empty = folder / "venv", folder / "empty"
    empty.mkdir()
    _python("-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    _python("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    commands = Commands(home=empty / ".foundry", folder=empty, env={"PYTHONPATH": ""}, python=python)
    yield commands
    commands.stop_services()


def test_the_wheel_holds_the_package_alone_and_the_shipped_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        shipped = {path.relative_to(ROOT) for kind in SHIPPED for path in (ROOT / kind).rglob("*") if path.is_file()} | {Path("pipeline.yaml")}
        differing = [path for path in shipped if archive.read(f"foundry_ray/_assets/{path}") != (ROOT / path).read_bytes()]
    assert differing == []
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"foundry_ray"}
    assert {"foundry_ray/py.typed", "foundry_ray/reporting/page.html.j2"} <= names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "foundry_ray").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if name.startswith("foundry_ray/_assets/") and name.endswith(".py")]


def test_the_installed_package_is_the_wheels(elsewhere: Commands) -> None:
    code = "import foundry_ray, foundry_ray.assets as assets; print(foundry_ray.__file__); print(assets.root())"
    package, shipped = _python("-I", "-c", code, python=elsewhere.python).splitlines()
    inside = elsewhere.python.parents[1]
    assert Path(package).is_relative_to(inside)
    assert Path(shipped) == Path(package).parent / "_assets"
    assert "foundry_ray" in _python(inside / "bin" / "foundry", "--version", python=elsewhere.python)


@pytest.mark.timeout(700)
def test_the_pipeline_runs_from_the_wheel(elsewhere: Commands) -> None:
    assert list(elsewhere.folder.iterdir()) == []
    assert elsewhere.run("init").code == 0
    elsewhere.fetch("mnist_5k")
    loose = ("--set", "gates={accuracy_drop_points: 100}", "--set", "serve.num_requests=5")
    outcome = elsewhere.run("run", "pipeline.yaml", "--scale", "smoke", *loose, "--json", timeout_s=600)
    assert outcome.code == 0, outcome.stderr[-3000:]
    record = json.loads(outcome.stdout)
    assert [stage["status"] for stage in record["stages"]] == ["done"] * 7
    assert record["stages"][-1]["outputs"]["status"] == "RUNNING"
    assert sorted(path.name for path in elsewhere.folder.iterdir()) == [".foundry", "pipeline.yaml"]
