"""MiniCPM 3: latent attention in a dense decoder; numbers for embeddings, what parts add, and logits.

Source: Hu et al. 2024, *MiniCPM* §3 (scales); transformers models/minicpm3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation import gguf_latent
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.latent import LATENT_RULES, latent, latent_rope, latent_to_hf
from pellucid.families.translation.rules import without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    num_layers, d_model = keys.num_layers("num_hidden_layers"), keys.size("hidden_size")
    depth = keys.get("scale_depth", math.sqrt(num_layers) if "scale_depth" in hf else 1.4)
    base = keys.size("dim_model_base", d_model if "dim_model_base" in hf else 256)
    width = max(d_model // keys.size("num_attention_heads"), 1)
    attention = latent(keys, latent_rope(keys, interleaved=False), v_head_dim=width)
    return llama.build(
        keys,
        eps=1e-5,
        mixers=(attention,) * num_layers,
        mlp_bias=keys.switch("mlp_bias", False),
        layer={"residual_scale": depth / math.sqrt(num_layers)},
        embedding_scale=keys.get("scale_emb", 12),
        logit_scale=base / d_model,
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return (
        llama.base_to_hf(config)
        | latent_to_hf(layer.mixer)
        | {
            "mlp_bias": layer.mlp.bias,
            "architectures": ["MiniCPM3ForCausalLM"],
            "scale_emb": config.embedding_scale,
            "scale_depth": _depth(layer.residual_scale, math.sqrt(config.num_layers)),
            "dim_model_base": round(config.logit_scale * config.d_model),
        }
    )


def _depth(scale: float, root: float) -> float:
    """The number that divided by the root is the scale again: as it was written, if it was written in few digits."""
    exact = scale * root
    near = (float(f"{exact:.12g}"), exact, math.nextafter(exact, 0.0), math.nextafter(exact, math.inf))
    return next((depth for depth in near if depth / root == scale), exact)


WEIGHTS = (*without(llama.WEIGHTS, "self_attn"), *LATENT_RULES)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    # The numbers are llama.cpp's own. Source: llama.cpp src/models/minicpm3.cpp.
    scales = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
    return gguf_latent.latent_keys("minicpm3", metadata, tensors) | scales


def _to_gguf(config: ModelConfig) -> dict[str, Any]:
    """Before 2025's way to write widths, which is this architecture's still."""
    keys, attention = gguf_latent.latent_to_gguf(config), config.layers[0].mixer
    own = {"attention.key_length": attention.head_dim, "attention.value_length": attention.v_head_dim}
    own |= {"attention.head_count_kv": attention.num_heads}
    return {name: value for name, value in (keys | own).items() if not name.endswith("_mla")}


GGUF = GGUF(
    architecture="minicpm3",
    hf=gguf_hf,
    weights=(*gguf_latent.LATENT_RULES, *gguf_latent.JOINED),
    ignored=("rope_factors_short.weight", "rope_factors_long.weight"),
    write=_to_gguf,
    needs=("blk.*.attn_q_a.weight",),
)

TINY = llama.TINY | {
    "model_type": "minicpm3",
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 16,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain_queries": {"q_lora_rank": None},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "equal_widths": {"v_head_dim": None},
    "unscaled": {"scale_emb": 1, "scale_depth": None, "dim_model_base": None},
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 2.0,
            "original_max_position_embeddings": 16,
            "short_factor": [1.0, 1.2],
            "long_factor": [1.0, 3.0],
        }
    },
}
