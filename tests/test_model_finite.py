"""A number that is not finite is named: the weight it stands in, or the first value of the forward pass."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import telling, tiny

from pellucid.config import weight_shapes
from pellucid.families import FAMILIES
from pellucid.model.attend import explicit
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.finite import first_not_finite
from pellucid.model.load import load_decoder, weights_of

IDS = [5, 9, 2, 7, 5, 11, 40, 3]


def spoiled(family: str, name: str, value: float = math.nan, place: int = 0) -> Decoder:
    model = copy.deepcopy(tiny(family))
    with torch.no_grad():
        model.get_parameter(name).view(-1)[place] = value
    return model


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_a_sound_model_has_nothing_to_name(family: str) -> None:
    assert first_not_finite(tiny(family), IDS) is None
    assert first_not_finite(tiny(family), torch.tensor([IDS, IDS])) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_weight_is_named_with_the_place_of_its_first_number_that_is_not_finite(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(list(FAMILIES)))
    name, shape = data.draw(st.sampled_from(list(weight_shapes(tiny(family).config).items())))
    value = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    place = data.draw(st.integers(0, math.prod(shape) - 1))
    first = first_not_finite(spoiled(family, name, value, place))
    assert first is not None
    assert (first.path, first.kind, first.count, first.total) == (name, "weight", 1, math.prod(shape))
    assert first.place == torch.unravel_index(torch.tensor(place), shape)
    assert str(first.value) == str(value)


def test_blocks_of_a_few_bits_are_weights_too() -> None:
    llama = FAMILIES["llama"]
    whole = Decoder(llama.config(llama.TINY | {"intermediate_size": 64})).initialize(torch.Generator().manual_seed(0))
    model = load_decoder(whole.config, dict(weights_of(whole)), "float32", "cpu", quantize="q8")
    assert first_not_finite(model, IDS) is None
    packed = model.get_submodule("layers.1.mlp.down_proj")
    packed.get_buffer("blocks")[3, :2] = torch.tensor([0, 0x7E], dtype=torch.uint8)  # the first block's scale: NaN
    first = first_not_finite(model)
    assert first is not None
    assert (first.path, first.place, first.count) == ("layers.1.mlp.down_proj.weight", (3, 0), 32)


def hidden_by_the_kernel(model: Decoder) -> bool:
    """It answers a query that meets nothing but NaN with zeros, so that the logits are finite."""
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), Context(torch.arange(len(IDS))[None]))
    return bool(torch.isfinite(logits).all())


def test_keys_of_nan_that_the_fused_kernel_hides_are_named() -> None:
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.get_parameter("layers.1.attention.k_proj.weight").fill_(math.nan)
    assert hidden_by_the_kernel(model), "torch hides it no more: the search may go through the fused kernel"
    first = first_not_finite(model, IDS)
    assert first is not None
    assert (first.path, first.count) == ("layers.1.attention.k_proj.weight", 16 * 32)


def test_queries_beyond_float16_that_the_fused_kernel_hides_are_named_by_their_tap() -> None:
    model = copy.deepcopy(tiny("llama")).half()
    with torch.no_grad():
        model.get_parameter("layers.1.attention.q_proj.weight").fill_(2.0**15)  # finite, as all weights are
    assert hidden_by_the_kernel(model)
    first = first_not_finite(model, IDS)
    assert first is not None
    assert (first.path, first.kind) == ("layers.1.q", "tap")
    assert "layers.1.q" in str(first.error())
    assert "float32" in str(first.error())


def test_the_mask_of_the_scores_is_not_taken_for_a_fault_and_a_real_one_is() -> None:
    model = copy.deepcopy(tiny("llama")).half()
    with torch.no_grad():
        for name in ("q", "k"):  # each finite, their products beyond 65504
            model.get_parameter(f"layers.0.attention.{name}_proj.weight").mul_(4000)
    first = first_not_finite(model, IDS)
    assert first is not None
    assert first.path == "layers.0.scores"
    assert first.value != -math.inf


def test_a_pass_over_a_cache_is_looked_at_with_what_the_cache_holds() -> None:
    model = copy.deepcopy(tiny("llama"))
    cache = Cache(model.config, 1, 12, torch.float32)
    with torch.no_grad():
        model(torch.tensor([IDS]), Context(torch.arange(8)[None], cache=cache))
    cache.layers[1].k[0, 0, 3, 0] = math.nan  # type: ignore[attr-defined]
    first = first_not_finite(model, [4], Context(torch.tensor([[8]]), cache=cache, attend=explicit))
    assert first is not None
    assert first.path == "layers.1.scores"
