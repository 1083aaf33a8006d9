"""LFM2-MoE: LFM2 with sigmoid-routed experts after the first dense layers. Source: transformers models/lfm2_moe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import lfm2
from pellucid.families.translation.experts import a_sparse_layer, expert_rules, fused, mlps_of, widths_to_hf
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, expert_width, experts_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys

HARMLESS = (*lfm2.HARMLESS, "intermediate_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**hf, "tie_word_embeddings": lfm2.tied(hf)}, HARMLESS)
    expert = MLPConfig(d_ff=keys.size("moe_intermediate_size", 1792))
    normalize = keys.switch("norm_topk_prob", True)
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", 32)),
        experts_per_token=keys.size("num_experts_per_tok", 4),
        scores="sigmoid",
        correction_bias=keys.switch("use_expert_bias", True),
        normalize=normalize,
        normalize_eps=1e-6 if normalize else 0.0,
        scale=float(keys.get("routed_scaling_factor", 1.0)),
    )
    dense = keys.get("num_dense_layers", 2)
    sparse = [i >= dense for i in range(keys.num_layers("num_hidden_layers"))]
    return lfm2.build(keys, mlps_of(keys, expert, experts, sparse))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    _, experts = a_sparse_layer(config)
    return (
        lfm2.base_to_hf(config)
        | widths_to_hf(config)
        | {
            "architectures": ["Lfm2MoeForCausalLM"],
            "num_experts": experts.num_experts,
            "num_experts_per_tok": experts.experts_per_token,
            "use_expert_bias": experts.correction_bias,
            "norm_topk_prob": experts.normalize,
            "routed_scaling_factor": experts.scale,
            "num_dense_layers": next(i for i, layer in enumerate(config.layers) if layer.experts),
        }
    )


WEIGHTS = (
    *lfm2.WEIGHTS,
    *expert_rules("model.layers.{i}.feed_forward", names=("w1", "w3", "w2"), correction="expert_bias"),
)
ALSO = fused("model.layers.{i}.feed_forward.experts")
IGNORED = lfm2.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    own = "lfm2moe"
    metadata.expect(f"{own}.expert_gating_func", 2, "a router whose scores are no sigmoids is not implemented here")
    return (
        lfm2.gguf_hf(metadata, tensors, own)
        | experts_keys(own, metadata, normalize=True)
        | {
            "model_type": "lfm2_moe",
            "moe_intermediate_size": expert_width(own, metadata, tensors),
            "num_dense_layers": metadata.scalar(f"{own}.leading_dense_block_count", 0),
        }
    )


GGUF = GGUF(
    architecture="lfm2moe",
    lacks=("blk.*.shortconv.*.bias",),
    hf=gguf_hf,
    weights=(
        *lfm2.GGUF.weights,
        *EXPERT_RULES,
    ),
    experts=True,
)

TINY = {name: value for name, value in lfm2.TINY.items() if name != "block_auto_adjust_ff_dim"} | {
    "model_type": "lfm2_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "num_dense_layers": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"conv_bias": True},
    "uncorrected": {"use_expert_bias": False},
    "unnormalized": {"norm_topk_prob": False},
    "scaled": {"routed_scaling_factor": 2.5},
    "all_sparse": {"num_dense_layers": 0},
}
