import subprocess
import sys

import foundry_ray
from foundry_ray import assets

HEAVY = {"torch", "ray", "deepspeed", "optuna", "onnxruntime", "onnx", "boto3", "pyarrow", "numpy", "pydantic", "matplotlib"}


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not _modules_after("import foundry_ray") & HEAVY


def test_help_imports_neither_torch_nor_ray() -> None:
    code = "from foundry_ray.cli.main import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    assert not _modules_after(code) & HEAVY


def test_all_public_names_load() -> None:
    assert foundry_ray.__all__ == sorted(foundry_ray.__all__)
    assert all(getattr(foundry_ray, name) is not None for name in foundry_ray.__all__)
    assert set(dir(foundry_ray)) == set(foundry_ray.__all__)


def test_shipped_files_are_found_by_name() -> None:
    assert assets.find("search_spaces", "joint_cnn", key="search.space").name == "joint_cnn.yaml"
    assert (assets.root() / "pipeline.yaml").is_file()
