from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray.config import ObjectiveConfig, SearchConfig, load_config
from foundry_ray.errors import ConfigError, FoundryError, OutOfRange, RecipeInfeasible, SearchSpaceError, UnknownKey
from foundry_ray.search.checks import check_students
from foundry_ray.search.space import load_space
from foundry_ray.types import SearchSpace


def _load(folder: Path, text: str, config: SearchConfig | None = None) -> SearchSpace:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_space(str(path), config or SearchConfig())


SPACES = Path(__file__).parents[3] / "search_spaces"
SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_space_loads_and_suits_the_shipped_pipeline(name: str) -> None:
    config = load_config(SPACES.parent / "pipeline.yaml", [f"search.space={name}"])
    space = load_space(name, config.search)
    assert len(space.params) >= 4
    assert space.objectives[0].metric == "accuracy"
    check_students(space, config)


def test_the_page_on_the_grammar_is_a_space_and_names_those_that_are_shipped(tmp_path: Path) -> None:
    page = (SPACES / "README.md").read_text()
    space = _load(tmp_path, page.partition("```yaml\n")[2].partition("```")[0])
    assert {param.kind for param in space.params} == {"float", "int", "categorical"}
    assert space.relations == ("width * depth <= 48",)
    assert all(f"| `{name}` |" in page for name in SHIPPED)


def test_a_space_says_what_the_grammar_says(tmp_path: Path) -> None:
    text = "params: {lr: {float: [0.001, 0.01], log: true}, batch_size: {int: [8, 16], step: 4}, optimizer: {choice: [adamw, sgd]}}"
    lr, batch_size, optimizer = _load(tmp_path, text).params
    assert (lr.kind, lr.low, lr.high, lr.log) == ("float", 0.001, 0.01, True)
    assert (batch_size.kind, batch_size.step) == ("int", 4.0)
    assert (optimizer.kind, optimizer.choices) == ("categorical", ("adamw", "sgd"))


def test_the_pipelines_objectives_and_constraints_win(tmp_path: Path) -> None:
    text = "params: {lr: {float: [0.001, 0.01]}}\nobjectives: [{metric: accuracy, mode: max}]\nconstraints: ['num_params <= 100']"
    own = _load(tmp_path, text)
    assert ([one.metric for one in own.objectives], own.constraints) == (["accuracy"], ("num_params <= 100",))
    config = SearchConfig(objectives=(ObjectiveConfig(metric="size_bytes", mode="min"),), constraints=("size_bytes < 5e4",))
    theirs = _load(tmp_path, text, config)
    assert ([one.metric for one in theirs.objectives], theirs.constraints) == (["size_bytes"], ("size_bytes < 50000",))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("params: {lr: {float: [0.001, 0.01], when: {optimiser: [sgd]}}, optimizer: {choice: [sgd]}}", SearchSpaceError, "did you mean `optimizer`?"),
        ("params: {lr: {float: [0.01, 0.001]}}", SearchSpaceError, "goes from 0.01 down to 0.001"),
        ("params: {lr: {float: [0, 0.1], log: true}}", SearchSpaceError, "must begin above 0"),
        ("params: {lr: {float: [1e-3, 0.1]}}", SearchSpaceError, "YAML reads 1e-3 as text"),
        ("params: {lr: {flaot: [0.001, 0.1]}}", UnknownKey, "did you mean `float`?"),
        ("param: {lr: {float: [0.001, 0.1]}}", UnknownKey, "did you mean `params`?"),
        ("params: {lr: {float: [0.001, 0.1], int: [1, 2]}}", SearchSpaceError, "exactly one of float, int, choice"),
        ("params: {lr: {float: [0.001, 0.1], log: true, step: 0.1}}", SearchSpaceError, "at most one of them"),
        ("params: {depth: {int: [1.5, 2]}}", SearchSpaceError, "whole numbers"),
        ("params: {optimizer: {choice: [sgd, sgd]}}", SearchSpaceError, "same choice twice"),
        ("params: {optimizer: {choice: [sgd], log: true}}", SearchSpaceError, "has log, which a choice cannot have"),
        ("params: {}", SearchSpaceError, "at least one parameter"),
        ("params: {lr: 0.1}", SearchSpaceError, "wanted a kind with its range"),
        (
            "params: {lr: {float: [0.1, 1], when: {warmup_ratio: [0.1]}}, warmup_ratio: {float: [0.1, 0.5], when: {lr: [0.1]}}}",
            SearchSpaceError,
            "go in a circle",
        ),
        ("params: {lr: {float: [0.1, 1], when: {optimizer: [adam]}}, optimizer: {choice: [sgd]}}", SearchSpaceError, "which it never is"),
        ("params: {lr: {float: [0.1, 1]}}\nconstraints: ['num_params << 3']", SearchSpaceError, "has not the form"),
        ("params: {lr: {float: [0.1, 1]}}\nconstraints: ['num_param <= 3']", UnknownKey, "did you mean `num_params`?"),
        ("params: {lr: {float: [0.1, 1]}}\nobjectives: [{metric: latency_p50, mode: min}]", UnknownKey, "did you mean `latency_p50_ms`?"),
        ("params: {learning_rate: {float: [0.1, 1]}}", UnknownKey, "did you mean `lr`?"),
        ("params: {wdth: {int: [8, 16]}}", UnknownKey, "did you mean `width`?"),
        ("params: {zzz: {float: [0.1, 1]}}", UnknownKey, "mine.yaml: params.zzz is read by nothing; there are batch_size, optimizer, lr,"),
        ("params: {prune_ratio: {float: [0.1, 1.5]}}", RecipeInfeasible, "mine.yaml: params: recipe step prune: ratio is 1.5"),
        ("params: {width: {int: [8, 16]}}", RecipeInfeasible, "a space sets this step by `width` and `depth`"),
        ("params: {width: {int: [8, 16], step: 100}, depth: {int: [1, 2]}}", SearchSpaceError, "8 would be its only value"),
        ("params: {optimizer: {choice: [sgd]}, lr: {float: [0.1, 1], when: {optimizer: sgd}}}", SearchSpaceError, "write `[sgd]`"),
        ("params:\n  lr: {float: [0.1, 1]}\n  lr: {float: [0.1, 2]}", ConfigError, "mine.yaml: lr is there twice, again at line 3"),
        ("", ConfigError, "mine.yaml is empty"),
        ("params: {lr: {float: [0.1, 1]}}\nconstraints: ['accuracy >= 95']", SearchSpaceError, "write 0.95"),
        ("params: {lr: {float: [0.1, 1]}}\nconstraints: ['num_params <= 0']", SearchSpaceError, "'num_params <= 0' can be kept by no trial"),
        (
            "params: {lr: {float: [0.1, 1]}}\nconstraints: ['num_params <= 100', 'num_params >= 200']",
            SearchSpaceError,
            "no value of num_params keeps both 'num_params >= 200' and 'num_params <= 100'",
        ),
        (
            "params: {lr: {float: [0.1, 1]}}\nobjectives: [{metric: accuracy, mode: max, threshold: 90}]",
            SearchSpaceError,
            "the threshold 90 of accuracy can be kept by no trial",
        ),
        ("params: {optimizer: {choice: [adamw, adamm, sgd]}}", OutOfRange, "did you mean 'adamw'?"),
        ("params: {epochs: {int: [1, 9]}}", SearchSpaceError, "wanted one number of epochs for all trials"),
        ("params: {lr: {float: [0.1, 1]}}\nrelations: 'lr < 1'", SearchSpaceError, "relations is 'lr < 1', wanted a list of texts"),
        ("params: {lr: {float: [0.1, 1]}}\nrelations: ['lr << 3']", SearchSpaceError, "is not one comparison"),
        ("params: {lr: {float: [0.1, 1]}}\nrelations: ['rl < 3']", UnknownKey, "did you mean `lr`?"),
        ("params: {lr: {float: [0.1, 1]}}\nrelations: ['lr > 1']", SearchSpaceError, "'lr > 1' holds at none of 2,000 points"),
        ("params: {lr: {float: [0.1, 1]}}\nrelation: ['lr > 1']", UnknownKey, "did you mean `relations`?"),
    ],
)
def test_a_bad_space_is_refused_with_what_got_wanted_and_a_hint(tmp_path: Path, text: str, error: type[FoundryError], message: str) -> None:
    with pytest.raises(error) as caught:
        _load(tmp_path, text)
    assert message in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("line", "message"), [("objectives: [{metric: speed, mode: max}]", "speed"), ("constraints: ['speed < 1']", "speed")])
def test_what_the_pipeline_overrides_in_a_space_is_checked_all_the_same(tmp_path: Path, line: str, message: str) -> None:
    config = SearchConfig(objectives=(ObjectiveConfig(metric="accuracy", mode="max"),), constraints=("size_bytes < 5e4",))
    with pytest.raises(UnknownKey, match=rf"mine\.yaml: {message} is no metric"):
        _load(tmp_path, f"params: {{lr: {{float: [0.1, 1]}}}}\n{line}", config)


def test_an_error_in_the_pipelines_own_limits_does_not_blame_the_space(tmp_path: Path) -> None:
    for config in (SearchConfig(constraints=("speed < 1",)), SearchConfig(objectives=(ObjectiveConfig(metric="speed", mode="max"),))):
        with pytest.raises(UnknownKey, match=r"^search\.(constraints|objectives): speed is no metric"):
            _load(tmp_path, "params: {lr: {float: [0.1, 1]}}", config)


def test_limits_from_both_sides_that_leave_room_are_fine(tmp_path: Path) -> None:
    text = "params: {lr: {float: [0.1, 1]}}\nconstraints: ['num_params >= 100', 'num_params <= 100', 'accuracy > 0.5', 'accuracy <= 1']"
    assert len(_load(tmp_path, text).constraints) == 4


def test_relations_are_read_into_the_space(tmp_path: Path) -> None:
    text = "params: {width: {int: [8, 32]}, depth: {int: [1, 4]}}\nrelations: ['width  * depth <= 64', 'depth < width']"
    assert _load(tmp_path, text).relations == ("width * depth <= 64", "depth < width")


def test_what_a_relation_rules_out_is_not_held_against_the_space(tmp_path: Path) -> None:
    text = "params: {mixup_alpha: {choice: [0.0, 0.4]}, distil_alpha: {choice: [0.0, 0.9]}, distil_temperature: {float: [1, 4]}}"
    with pytest.raises(ConfigError, match="while distilling"):
        _load(tmp_path, text)
    assert _load(tmp_path, f"{text}\nrelations: ['mixup_alpha * distil_alpha == 0']").relations


def test_mixing_beside_a_teachers_cached_answers_is_refused(tmp_path: Path) -> None:
    text = "params: {mixup_alpha: {float: [0.1, 0.4]}, distil_alpha: {float: [0.1, 0.9]}, distil_temperature: {float: [1, 4]}}"
    with pytest.raises(ConfigError, match="while distilling, wanted one or the other"):
        _load(tmp_path, text)


def test_a_missing_space_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="joint_cnn"):
        load_space("join_cnn", SearchConfig())
