import pytest

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.types import CompressionRecipe, MetricValue, Param, Step, Trial, TrialState, canonical_bytes, from_json, to_json

TRIAL = Trial(
    trial_id="t1",
    number=1,
    params={"lr": 0.1, "width": 8, "on": True, "kind": "a"},
    recipe=CompressionRecipe(steps=(Step(kind="prune", params={"ratio": 0.5}),)),
    state=TrialState.STOPPED,
    curve=({"epoch": 1.0},),
)


def test_values_survive_json() -> None:
    assert from_json(Trial, to_json(TRIAL)) == TRIAL


def test_a_newer_writers_field_is_ignored_and_a_missing_one_takes_its_default() -> None:
    document = to_json(TRIAL)
    assert isinstance(document, dict)
    document["invented_later"] = 1
    del document["num_failures"]
    assert from_json(Trial, document) == TRIAL


def test_a_wrong_type_is_corrupt_and_named() -> None:
    with pytest.raises(ArtifactCorrupt, match="runs/x is not a MetricValue: got 'high'"):
        from_json(MetricValue, {"value": "high", "ci_low": 0, "ci_high": 1, "n": 3}, what="runs/x")


def test_equal_recipes_hash_equal_whatever_the_order_of_parameters() -> None:
    one = CompressionRecipe(steps=(Step(kind="distil", params={"alpha": 0.5, "temperature": 4.0}),))
    two = CompressionRecipe(steps=(Step(kind="distil", params={"temperature": 4.0, "alpha": 0.5}),))
    assert one.sha256 == two.sha256
    assert one.sha256 != CompressionRecipe().sha256


def test_canonical_bytes_refuse_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes({"loss": float("nan")})


@pytest.mark.parametrize("state", list(TrialState))
def test_only_waiting_and_running_trials_go_on(state: TrialState) -> None:
    assert state.is_terminal == (state.value not in ("waiting", "running"))


def test_conditions_of_parameters_survive_json() -> None:
    param = Param(name="bits", kind="categorical", choices=(8, 32), when={"quantize": (True,)})
    assert from_json(Param, to_json(param)) == param
