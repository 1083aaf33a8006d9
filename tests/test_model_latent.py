"""Latent attention: what is kept of a token, one query's shorter way, and adapters and blocks beneath it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny
from test_families_conformance import assert_close, plain, tokens
from torch import Tensor

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.config import LatentAttentionConfig, NormConfig, RopeConfig
from pellucid.families import minicpm3
from pellucid.families.translation.latent import SplitKeysValues, TurnedFirst
from pellucid.model.attend import explicit
from pellucid.model.cache import Cache, FullCache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.latent import LatentAttention
from pellucid.model.load import load_decoder, weights_of
from pellucid.train.lora import LoraSettings, attach_lora, lora_layers


def latent(**changed: Any) -> LatentAttentionConfig:
    fields: dict[str, Any] = {
        "num_heads": 3,
        "kv_lora_rank": 5,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2,
        "v_head_dim": 7,
    }
    return LatentAttentionConfig(**fields | {"latent_norm": NormConfig(), "rope": RopeConfig(dim=2)} | changed)


def one_by_one(decoder: Decoder, token_ids: Tensor, prompt: int, **changed: Any) -> Tensor:
    """The logits of a prompt at once, then of token by token."""
    cache = Cache(decoder.config, token_ids.shape[0], token_ids.shape[1], decoder.dtype)
    logits = []
    for step in (token_ids[:, :prompt], *token_ids[:, prompt:].split(1, 1)):
        positions = torch.arange(cache.length, cache.length + step.shape[1]).expand_as(step)
        logits.append(decoder(step, Context(positions, cache=cache, **changed)))
    return torch.cat(logits, 1)


def test_the_cache_holds_one_latent_and_one_turned_key_a_token() -> None:
    decoder = tiny("minicpm3")
    state = Cache(decoder.config, 2, 10, torch.float32).layers[0]
    assert isinstance(state, FullCache)
    assert (tuple(state.k.shape), state.v.numel()) == ((2, 1, 10, 4 + 16), 0)
    assert (
        decoder.config.layers[0].mixer.state_bytes(10, 4) == 10 * 20 * 4
    )  # keys and values of its heads would be 4 · (12 + 12)


@settings(deadline=None, max_examples=25)
@given(
    num_heads=st.integers(1, 4),
    rank=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 5)),
    window=st.none() | st.integers(1, 6),
    rotates=st.booleans(),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_one_query_against_latents_is_one_query_against_keys(
    num_heads: int, rank: int, widths: tuple[int, int, int], window: int | None, rotates: bool, seed: int
) -> None:
    """In float64 the absorbed form, the expanded one and the equation as written agree to rounding."""
    own, half, value = widths
    config = latent(
        num_heads=num_heads,
        kv_lora_rank=rank,
        qk_nope_head_dim=own,
        qk_rope_head_dim=2 * half,
        v_head_dim=value,
        window=window,
        rope=RopeConfig(dim=2 * half, layout="interleaved") if rotates else None,
    )
    base = tiny("minicpm3").config
    layers = tuple(replace(layer, mixer=config) for layer in base.layers)
    decoder, generator = Decoder(replace(base, layers=layers)).double(), torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        parameter.normal_(0.0, 0.5, generator=generator)
    token_ids = tokens(decoder, batch=2, length=9)
    absorbed = one_by_one(decoder, token_ids, 4)
    assert_close(absorbed, one_by_one(decoder, token_ids, 4, attend=explicit), 1e-6)  # angles are float32
    assert_close(absorbed, decoder(token_ids, plain(token_ids)), 1e-6)


@torch.no_grad()
def test_decoding_needs_no_key_of_any_token(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, widths = tiny("minicpm3"), []
    seen = LatentAttention._by_head
    monkeypatch.setattr(LatentAttention, "_by_head", lambda self, x: widths.append(x.shape[1]) or seen(self, x))
    one_by_one(decoder, tokens(decoder, batch=1, length=12), 8)
    assert max(widths[3 * len(decoder.layers) :]) == 1  # after the prompt, queries alone are made


@torch.no_grad()
def test_adapters_and_blocks_of_few_bits_decode_as_they_read() -> None:
    decoder = tiny("minicpm3")
    token_ids = tokens(decoder, length=12)
    adapted = load_decoder(decoder.config, dict(weights_of(decoder)), "float32", "cpu")
    names = attach_lora(adapted, LoraSettings(rank=2))
    assert {"layers.0.attention.k_b_proj", "layers.0.attention.kv_a_proj", "layers.1.attention.q_b_proj"} <= {*names}
    for layer in lora_layers(adapted).values():
        layer.lora_b.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(1))
    full = adapted(token_ids, plain(token_ids))
    assert_close(one_by_one(adapted, token_ids, 5), full)
    with pytest.raises(AssertionError):
        assert_close(full, decoder(token_ids, plain(token_ids)))

    wide = decoder.config.layers[0].mixer
    assert isinstance(wide, LatentAttentionConfig)
    mixer = replace(wide, kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=16, v_head_dim=16)
    large = Decoder(replace(decoder.config, layers=tuple(replace(x, mixer=mixer) for x in decoder.config.layers)))
    for parameter in large.parameters():
        parameter.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(2))
    blocks = load_decoder(large.config, dict(weights_of(large)), "float32", "cpu", quantize="q8")
    assert_close(one_by_one(blocks, token_ids, 5), blocks(token_ids, plain(token_ids)))


def test_rows_of_heads_by_worked_example() -> None:
    """Heads of (own, turned) = (2, 2) rows, then keys of 2 and values of 1."""
    mixer = latent(num_heads=2, qk_nope_head_dim=2, v_head_dim=1)
    place = replace(tiny("minicpm3").config.layers[0], mixer=mixer)
    rows = Array.from_numpy(np.arange(8, dtype=np.float32)[:, None])
    (turned,) = TurnedFirst().forward([rows], place)
    assert turned.data[:, 0].tolist() == [2, 3, 0, 1, 6, 7, 4, 5]
    np.testing.assert_array_equal(TurnedFirst().inverse([turned], place)[0].data, rows.data)
    both = Array.from_numpy(np.arange(6, dtype=np.float32)[:, None])
    keys, values = SplitKeysValues().forward([both], place)
    assert (keys.data[:, 0].tolist(), values.data[:, 0].tolist()) == ([0, 1, 3, 4], [2, 5])
    np.testing.assert_array_equal(SplitKeysValues().inverse([keys, values], place)[0].data, both.data)
    with pytest.raises(WeightsError, match="2 × 3 = 6"):
        SplitKeysValues().forward([rows], place)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="qk_rope_head_dim = 2"):
        latent(rope=RopeConfig(dim=4))
    with pytest.raises(ConfigError, match="q_lora_rank must be a positive"):
        latent(q_lora_rank=0)
    with pytest.raises(UnsupportedError, match="num_key_value_heads = 4"):
        minicpm3.config(minicpm3.TINY | {"num_key_value_heads": 2})
