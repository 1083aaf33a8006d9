"""Positions: the paper's sinusoidal table, and rotary scalings against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import reference_model

from pellucid.config import ModelConfig, RopeConfig
from pellucid.families import llama
from pellucid.generate import generate
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.position import rotate, rotation, sinusoidal_table


def test_the_sinusoidal_table_is_the_papers_formula() -> None:
    d_model = 6
    table = sinusoidal_table(50, d_model)
    for position in (0, 1, 49):
        for i in range(d_model // 2):
            angle = position / 10000 ** (2 * i / d_model)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 300), st.sampled_from(["half", "interleaved"]))
def test_rotated_products_depend_on_distance_alone(m: int, n: int, shift: int, layout: Any) -> None:
    rope = RopeConfig(dim=8, layout=layout)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).double()

    def product(a: int, b: int) -> float:
        places = torch.tensor([[a]]), torch.tensor([[b]])
        turned = [
            rotate(x, *rotation(rope, at, at + 1, torch.float64), layout) for x, at in zip((q, k), places, strict=True)
        ]
        return (turned[0] * turned[1]).sum().item()

    assert product(m, n) == pytest.approx(product(m + shift, n + shift), abs=1e-3)  # angles are float32: 500 rad ± 3e-5


def test_a_partial_rotation_leaves_the_rest_alone() -> None:
    x = torch.randn(1, 2, 3, 8)
    at = torch.tensor([[4, 5, 6]])
    turned = rotate(x, *rotation(RopeConfig(dim=4), at, at + 1, torch.float32), "half")
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert not torch.equal(turned[..., :4], x[..., :4])


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.3,
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
        "original_max_position_embeddings": 16,
    },
}


@torch.no_grad()
def loud(config: ModelConfig) -> Decoder:
    """A fresh model with weights ten times larger, so that attention is far from uniform and rotations count."""
    decoder = Decoder(config).initialize(torch.Generator().manual_seed(0)).eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            parameter.mul_(10)
    return decoder


@pytest.mark.parametrize("kind", SCALINGS)
@torch.no_grad()
def test_scalings_equal_transformers_step_by_step_past_the_original_length(kind: str) -> None:
    config = llama.config(llama.TINY | {"max_position_embeddings": 16, "rope_scaling": SCALINGS[kind]})
    assert llama.config(llama.to_hf(config)) == config
    decoder = loud(config)
    theirs = reference_model(decoder)
    token_ids = torch.randint(0, config.vocab_size, (1, 40), generator=torch.Generator().manual_seed(1))
    cache, past = Cache(config, 1, 40, torch.float32), None
    for start, stop in [(0, 10), *((i, i + 1) for i in range(10, 40))]:
        step = token_ids[:, start:stop]
        out = theirs(step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        ours = decoder(step, Context(torch.arange(start, stop)[None], cache=cache))
        assert (ours - out.logits).abs().max() <= 2e-5 * out.logits.abs().max(), f"{kind} at {start}"


@torch.no_grad()
def test_factors_of_a_gguf_file_survive_a_save_for_transformers() -> None:
    """llama.cpp's converter writes Llama 3.1's scaling as a factor for each pair; transformers has it as longrope with
    one list.
    """
    config = llama.config(llama.TINY | {"rope_scaling": {"rope_type": "factors", "short_factor": [1.0, 1.5, 4.0, 8.0]}})
    decoder = loud(config)
    token_ids = torch.randint(0, config.vocab_size, (1, 40), generator=torch.Generator().manual_seed(1))
    plain = Decoder(llama.config(llama.TINY)).eval()
    plain.load_state_dict(decoder.state_dict())
    ours, theirs = decoder(token_ids, Context(torch.arange(40)[None])), reference_model(decoder)(token_ids).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (ours - plain(token_ids, Context(torch.arange(40)[None]))).abs().max() > 1e-3 * theirs.abs().max(), (
        "the factors count"
    )


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_request_past_the_original_length_is_the_same_alone_and_beside_others(kind: str) -> None:
    """The table follows the request's own length, never the batch's longest; a long prompt is computed whole."""
    config = llama.config(
        llama.TINY
        | {"max_position_embeddings": 64, "rope_scaling": SCALINGS[kind] | {"original_max_position_embeddings": 16}}
    )
    executor = TorchExecutor(loud(config))
    prompts = [[7, 3, 9], list(range(5, 45)), list(range(20, 34))]
    together = generate(executor, prompts, max_new_tokens=8, stop_token_ids=(), logprobs=0, prefill_chunk=4)
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = generate(executor, [prompt], max_new_tokens=8, stop_token_ids=(), logprobs=0)
        assert result.token_ids == alone.token_ids
        assert result.answers[0].logprobs == alone.answers[0].logprobs
