"""One layer of GLM-4 in the official ChatGLM code: its own activations, prefill and two cached steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.base.array import Array
from pellucid.families import chatglm
from pellucid.families.translation.rules import to_ours
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.load import load_decoder


@pytest.fixture
def recorded(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "glm4_reference" / "glm4_model.npz") as file:
        return dict(file)


@torch.no_grad()
def test_hidden_states_equal_the_official_code_in_prefill_and_cached_steps(recorded: dict[str, np.ndarray]) -> None:
    config = chatglm.config(
        {
            "model_type": "chatglm",
            "padded_vocab_size": 5,
            "hidden_size": 32,
            "ffn_hidden_size": 48,
            "num_layers": 1,
            "num_attention_heads": 8,
            "kv_channels": 4,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "layernorm_epsilon": 1.5625e-07,  # GLM-4's
            "add_qkv_bias": True,
        }
    )
    layer = "transformer.encoder.layers.0."
    names = {
        "transformer.embedding.word_embeddings.weight": "emb",
        layer + "input_layernorm.weight": "ln1",
        layer + "self_attention.query_key_value.weight": "qkv_w",
        layer + "self_attention.query_key_value.bias": "qkv_b",
        layer + "self_attention.dense.weight": "dense_w",
        layer + "post_attention_layernorm.weight": "ln2",
        layer + "mlp.dense_4h_to_h.weight": "down",
        "transformer.encoder.final_layernorm.weight": "lnf",
    }
    arrays = {theirs: Array.from_numpy(recorded[name]) for theirs, name in names.items()}
    arrays[layer + "mlp.dense_h_to_4h.weight"] = Array.from_numpy(np.concatenate((recorded["gate"], recorded["up"])))
    arrays["transformer.output_layer.weight"] = arrays[
        "transformer.embedding.word_embeddings.weight"
    ]  # the recording has no head
    makers = to_ours(config, chatglm.WEIGHTS, arrays, "glm4_model.npz")
    decoder = load_decoder(config, {name: make()[name] for name, make in makers.items()}, device="cpu")

    cache = Cache(config, 1, 5, torch.float32)
    for ids, expected in (("x1", "y1"), ("x2", "y2"), ("x3", "y3")):
        token_ids = torch.tensor(recorded[ids])[None].long()
        positions = torch.arange(cache.length, cache.length + token_ids.shape[1])[None]
        hidden = decoder.hidden(token_ids, Context(positions, cache=cache))[0]
        np.testing.assert_allclose(hidden.squeeze(0).numpy(), recorded[expected], atol=1e-6)
