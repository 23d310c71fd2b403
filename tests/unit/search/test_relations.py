from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.errors import ConfigError, SearchSpaceError, UnknownKey
from foundry_ray.search import relations
from foundry_ray.search.relations import Relation
from foundry_ray.types import Param

PARAMS = (
    Param(name="width", kind="int", low=1, high=64),
    Param(name="depth", kind="int", low=1, high=8),
    Param(name="distil_alpha", kind="float", low=0.0, high=1.0),
    Param(name="wanda.ratio", kind="float", low=0.0, high=1.0),
    Param(name="weight_bits", kind="categorical", choices=(8, 32)),
    Param(name="optimizer", kind="categorical", choices=("adamw", "sgd")),
    Param(name="nesterov", kind="categorical", choices=(True, False)),
)
VALUES = {"width": 8, "depth": 2, "distil_alpha": 0.25, "wanda.ratio": 0.5, "weight_bits": 32}
FORBIDDEN = ["width ** 2", "width // 2", "width % 2", "~width", "abs(width)", "min(width)", "min(*[width])", "max(width, 1, key=1)", "width[0]"]
FORBIDDEN += ["'a'", "True", "1j", "1e999", "[width]", "(width, 1)", "width if depth else 1", "lambda: width", "(width := 3)", "width and depth"]
FORBIDDEN += ["__import__('os')", "width.real()", "f'{width}'", "not width", "{1: width}", "[n for n in width]", "9" * 350, "width < depth"]


def _parse(text: str) -> Relation:
    return relations.parse(text, where="my.yaml", params=PARAMS)


def _arithmetic() -> st.SearchStrategy[str]:
    """Expressions of the grammar as texts; their names are the keys of VALUES without a dot."""
    numbers = st.one_of(st.integers(0, 99), st.floats(0.01, 99, allow_subnormal=False)).map(str)
    leaves = st.one_of(numbers, st.sampled_from(["width", "depth", "distil_alpha", "weight_bits"]))

    def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            st.tuples(pair, st.sampled_from("+-*/")).map(lambda both: f"({both[0][0]}) {both[1]} ({both[0][1]})"),
            st.tuples(pair, st.sampled_from(["min", "max"])).map(lambda both: f"{both[1]}({both[0][0]}, {both[0][1]})"),
            inner.map(lambda text: f"-({text})"),
        )

    return st.recursive(leaves, _grown, max_leaves=6).filter(lambda text: len(text) < 150)


@given(left=_arithmetic(), comparison=st.sampled_from(["<=", ">=", "<", ">", "=="]))
def test_a_relation_compares_as_arithmetic_does(left: str, comparison: str) -> None:
    relation = _parse(f"{left} {comparison} width")
    try:
        value = float(eval(left, {}, VALUES))
    except ZeroDivisionError:
        assert not relation.holds(VALUES)
        return
    if not math.isclose(value, 8, rel_tol=1e-6):
        wanted: dict[str, Callable[[float], bool]] = {"<=": lambda a: a < 8, "<": lambda a: a < 8, ">=": lambda a: a > 8, ">": lambda a: a > 8}
        assert relation.holds(VALUES) == wanted.get(comparison, lambda a: False)(value)


@given(text=st.one_of(st.text(max_size=40), st.text(alphabet="width depth<>=+-*/().,019e'\"[]{}:\\", max_size=40)))
def test_any_text_is_read_or_refused_as_a_users_mistake(text: str) -> None:
    with suppress(ConfigError):
        assert _parse(text).holds(VALUES) in (True, False)


@given(part=st.sampled_from(FORBIDDEN), template=st.sampled_from(["{} <= 3", "3 > depth + {}", "max(1, -({})) == depth"]))
def test_what_is_no_arithmetic_is_refused_wherever_it_stands(part: str, template: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        _parse(template.format(part))
    assert caught.value.message.startswith("my.yaml: relation ")
    assert "width * depth <= 64" in caught.value.hint


@pytest.mark.parametrize("text", ["1 <= 2", "width", "width <= 3 <= depth", "width != 3", "width in depth", "width = 3", "width <", "", "(" * 300])
def test_what_is_no_single_comparison_of_parameters_is_refused(text: str) -> None:
    with pytest.raises(SearchSpaceError, match="wanted arithmetic on both sides of a comparison"):
        _parse(text)


def test_a_relation_longer_than_anybody_reads_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match="has 407 characters, wanted at most 400"):
        _parse("width" + "+1" * 200 + "<9")


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownKey, match="names widht, which is no parameter of this space") as caught:
        _parse("widht * depth <= 64")
    assert (caught.value.hint, caught.value.facts["nearest"]) == ("did you mean `width`?", "width")


@pytest.mark.parametrize(("name", "value"), [("optimizer", "'adamw'"), ("nesterov", "True")])
def test_a_parameter_of_words_is_no_number(name: str, value: str) -> None:
    with pytest.raises(SearchSpaceError, match=f"computes with {name}, which can be {value}, wanted numbers"):
        _parse(f"{name} < 3")


def test_a_relation_holds_where_one_of_its_parameters_does_not_exist() -> None:
    relation = _parse("width * depth <= 4")
    assert relation.holds({"width": 8})
    assert not relation.holds({"width": 8, "depth": 1})


def test_sums_of_decimals_are_compared_as_people_add_them() -> None:
    assert _parse("distil_alpha + 0.2 <= 0.3").holds({"distil_alpha": 0.1})
    assert not _parse("distil_alpha + 0.2 > 0.3").holds({"distil_alpha": 0.1})
    assert _parse("distil_alpha + 0.2 == 0.3").holds({"distil_alpha": 0.1})


def test_a_plugins_parameter_and_a_choice_of_numbers_can_be_compared() -> None:
    relation = _parse("  wanda.ratio *   weight_bits<= 16 ")
    assert (relation.text, relation.names) == ("wanda.ratio * weight_bits<= 16", {"wanda.ratio", "weight_bits"})
    assert [relation.holds({**VALUES, "weight_bits": bits, "wanda.ratio": 0.75}) for bits in (8, 32)] == [True, False]
