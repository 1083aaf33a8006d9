"""ERNIE 4.5 (dense): Llama's shape turned in neighbouring pairs, with biases on all maps or none.

Source: Baidu 2025, *ERNIE 4.5 Technical Report* §2; transformers models/ernie4_5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    keys.only("compression_ratio", 1)  # of positions
    bias = keys.switch("use_bias", False)
    head_dim, context_len = keys.size("head_dim", 128), keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        eps=1e-5,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, default_theta=5e5, layout="interleaved"),
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    bias = config.layers[0].mixer.qkv_bias
    return llama.base_to_hf(config) | {"architectures": ["Ernie4_5ForCausalLM"], "use_bias": bias}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("ernie4_5", metadata, tensors)
    return common | {"use_bias": has_bias(tensors, "attn_q", "attn_output", "ffn_up")}


GGUF = GGUF(
    architecture="ernie4_5", lacks=("blk.*.ffn_*.bias", "blk.*.attn_output.bias"), hf=gguf_hf, weights=llama_rules()
)

TINY = llama.TINY | {"model_type": "ernie4_5", "head_dim": 16, "pad_token_id": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"use_bias": True},
    "untied": {"tie_word_embeddings": False},
    "rope_theta": {"rope_theta": 1000.0},
}
