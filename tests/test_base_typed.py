"""Values from files are held to the annotations of the dataclass that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pellucid.base.errors import ConfigError, TokenizerError
from pellucid.base.typed import check_fields, from_object, is_real, is_whole, shown
from pellucid.config import NormConfig, RopeConfig, RopeScaling


@dataclass
class Described:
    size: int = 1
    factor: float = 1.0
    on: bool = False
    kind: Literal["a", "b"] = "a"
    window: int | None = None
    factors: tuple[float, ...] = ()
    norm: NormConfig | None = None
    more: Mapping[str, Any] | None = None


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("size", [0, -3, 2**62], [True, 1.0, "1", None, 2**64, 10**400, [1]]),
        ("factor", [0, 1.5, -2, 10**300], [True, float("nan"), float("inf"), 10**400, "1", None, [1.0]]),
        ("on", [True], [1, 0, "true", None]),
        ("kind", ["b"], ["c", None, ["a"], {"a": 1}]),
        ("window", [3, None], [1.5, True, "x"]),
        ("factors", [(1, 2.5)], [[1.0], (1.0, "x"), (float("nan"),), 3]),
        ("norm", [NormConfig(), None], [{"kind": "rms"}, 3]),
        ("more", [{"a": 1}, None], [[], 3]),
    ],
)
def test_a_value_of_another_type_is_named(name: str, good: list[Any], bad: list[Any]):
    for value in good:
        check_fields(Described(**{name: value}), "x")
    for value in bad:
        with pytest.raises(TokenizerError, match=rf"^x: {name} is not what it must be") as error:
            check_fields(Described(**{name: value}), "x", TokenizerError)
        assert len(str(error.value)) < 400


def test_an_object_of_a_file_becomes_a_dataclass_or_is_named():
    assert from_object(Described, {"size": 3, "factor": 2}, "x") == Described(size=3, factor=2.0)
    for values in ([], None, {"size": "3"}, {"other": 1}, {"size": 1, "more": 3}):
        with pytest.raises(ConfigError, match=r"^x: "):
            from_object(Described, values, "x")


def test_a_whole_number_in_a_floats_place_becomes_one():
    made = Described(factor=3)
    check_fields(made, "x")
    assert isinstance(made.factor, float)


def test_numbers_are_told_from_what_only_looks_like_them():
    assert is_whole(3)
    assert is_real(3)
    assert not is_whole(True)
    assert not is_real(True)
    assert not is_real(10**400)
    assert not is_whole(10**400)


def test_a_value_is_shown_short_whatever_it_is():
    assert shown("x" * 1000).endswith("…")
    assert "too large" in shown(10**5000)


@pytest.mark.parametrize(
    "scaling",
    [
        {"kind": "llama3", "factor": 8.0, "original_context_len": 32, "high_freq_factor": [-1]},
        {"kind": "llama3", "factor": 8.0, "original_context_len": 32, "low_freq_factor": 5.0},
        {"kind": "yarn", "factor": 2.0, "original_context_len": 32, "beta_fast": 0.0},
        {"kind": "yarn", "factor": 2.0, "original_context_len": 32, "mscale": "1"},
        {"kind": "yarn", "factor": 2.0, "original_context_len": 32, "attention_factor": -1.0},
        {"kind": "linear", "factor": 10**400},
        {"kind": "longrope", "factor": 2.0, "original_context_len": 1},
    ],
)
def test_rope_numbers_that_nothing_could_be_computed_with_are_refused(scaling: dict[str, Any]):
    with pytest.raises(ConfigError, match="rope scaling"):
        RopeScaling(**scaling)


def test_rope_settings_that_divide_by_zero_are_refused():
    with pytest.raises(ConfigError, match="logarithm of theta"):
        RopeConfig(dim=8, theta=1.0, scaling=RopeScaling(kind="yarn", factor=2.0, original_context_len=8))
    with pytest.raises(ConfigError, match="dim"):
        RopeConfig(dim=2, scaling=RopeScaling(kind="dynamic", factor=2.0, original_context_len=8))
