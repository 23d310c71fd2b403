import pickle

import pytest

from foundry_ray import errors
from foundry_ray.errors import FoundryError


def _tree(cls: type[FoundryError]) -> list[type[FoundryError]]:
    return [cls, *(leaf for below in cls.__subclasses__() for leaf in _tree(below))]


@pytest.mark.parametrize("cls", _tree(FoundryError), ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_its_facts(cls: type[FoundryError]) -> None:
    error = cls("what, got, wanted.", hint="do this.", **{name: f"value of {name}" for name in cls.fields})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.hint, copy.facts, copy.exit_code) == (error.message, error.hint, error.facts, error.exit_code)
    assert all(getattr(copy, name) == f"value of {name}" for name in cls.fields)


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.UnknownKey, 2),
        (errors.BadRecord, 2),
        (errors.RecipeInfeasible, 2),
        (errors.ResourcesUnavailable, 2),
        (errors.ArtifactNotFound, 2),
        (errors.NoFeasibleTrial, 3),
        (errors.RolloutRejected, 3),
        (errors.ClusterUnreachable, 4),
        (errors.ClusterDenied, 4),
        (errors.StoreUnavailable, 4),
        (errors.StoreDenied, 4),
        (errors.DeployTimeout, 4),
        (errors.Conflict, 5),
        (errors.ArtifactCorrupt, 5),
        (errors.SignatureInvalid, 5),
        (errors.Diverged, 5),
    ],
)
def test_exit_codes_are_the_contract(cls: type[FoundryError], code: int) -> None:
    assert cls.exit_code == code


def test_every_error_stands_in_the_drawn_tree() -> None:
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in _tree(FoundryError))
