"""Qwen3-MoE: Qwen3 with many narrow experts in place of MLPs; single layers may stay dense. No shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import llama, qwen3
from pellucid.families.translation.experts import in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, common_keys, expert_width, experts_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, Upright

# The window, where it is switched on, is every layer's; the dense width means nothing where no layer is dense.
HARMLESS = ("max_window_layers", "intermediate_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    bias = keys.switch("attention_bias", False)
    window = keys.get("sliding_window", 4096)
    windows = (window if keys.get("use_sliding_window", False) else None,) * keys.num_layers("num_hidden_layers")
    return llama.build(keys, qkv_bias=bias, o_bias=bias, qk_norm=True, windows=windows, mlps=mlps(keys, experts(keys)))


def experts(keys: Keys) -> ExpertsConfig:
    """The routing that Qwen's configs describe; transformers 5 writes ``num_local_experts`` where it wrote
    ``num_experts`` before.
    """
    return ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", 128)),
        experts_per_token=keys.size("num_experts_per_tok", 8),
        normalize=keys.switch("norm_topk_prob", False),
    )


def mlps(keys: Keys, experts: ExpertsConfig) -> tuple[tuple[MLPConfig, ExpertsConfig | None], ...]:
    """Each layer's: every ``decoder_sparse_step``-th one is sparse, but for those of ``mlp_only_layers``."""
    activation, num_layers = keys.activation("hidden_act", "silu"), keys.num_layers("num_hidden_layers")
    step, only = keys.size("decoder_sparse_step", 1), keys.get("mlp_only_layers", [])
    if not isinstance(only, list) or not all(isinstance(i, int) for i in only):
        raise ConfigError("mlp_only_layers must be a list of layers", where=keys.where, received=repr(only))
    sparse = [i not in only and (i + 1) % step == 0 for i in range(num_layers)]
    expert = MLPConfig(d_ff=keys.size("moe_intermediate_size", 768), activation=activation)
    dense = expert if all(sparse) else MLPConfig(d_ff=keys.size("intermediate_size"), activation=activation)
    return tuple((expert, experts) if is_sparse else (dense, None) for is_sparse in sparse)


def mlps_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``mlps`` and ``experts``, by both names. ``intermediate_size`` means nothing where no layer is dense:
    it stays as it was.
    """
    sparse = next((layer for layer in config.layers if layer.experts), None)
    if sparse is None or sparse.experts is None:
        raise ConfigError("a model of this family has experts", where=config.model_type)
    dense = next(
        (layer.mlp.d_ff for layer in config.layers if not layer.experts),
        config.extra.get("intermediate_size", sparse.mlp.d_ff),
    )
    return {
        "intermediate_size": dense,
        "moe_intermediate_size": sparse.mlp.d_ff,
        "num_experts": sparse.experts.num_experts,
        "num_experts_per_tok": sparse.experts.experts_per_token,
        "norm_topk_prob": sparse.experts.normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, layer in enumerate(config.layers) if not layer.experts],
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    return (
        llama.base_to_hf(config)
        | mlps_to_hf(config)
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "use_sliding_window": attention.window is not None,
            "sliding_window": attention.window,
        }
    )


EXPERTS = (
    Rule("model.layers.{i}.mlp.gate.weight", "layers.{i}.mlp.router.weight"),
    *(
        Rule(f"model.layers.{{i}}.mlp.experts.{{e}}.{name}.weight", f"layers.{{i}}.mlp.experts.{{e}}.{name}.weight")
        for name in ("gate_proj", "up_proj", "down_proj")
    ),
)
WEIGHTS = (*qwen3.WEIGHTS, *EXPERTS)
# Qwen3-VL's files have experts fused, and lying.
ALSO = tuple(
    replace(rule, transforms=(rule.transforms[0], upright, *rule.transforms[1:]))
    for rule, upright in zip(
        in_memory(WEIGHTS, "mlp"),
        (Upright(0, lambda layer: 2 * layer.mlp.d_ff), Upright(1, lambda layer: layer.mlp.d_ff)),
        strict=True,
    )
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    own = {
        "model_type": "qwen3_moe",
        "norm_topk_prob": True,
        "moe_intermediate_size": expert_width("qwen3moe", metadata, tensors),
    }
    return common_keys("qwen3moe", metadata, tensors) | experts_keys("qwen3moe", metadata, normalize=True) | own


GGUF = GGUF(architecture="qwen3moe", hf=gguf_hf, weights=(*qwen3.GGUF.weights, *EXPERT_RULES), experts=True)

TINY = qwen3.TINY | {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "mlp_only_layers": [1],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "all_sparse": {"mlp_only_layers": []},
    "unnormalized": {"norm_topk_prob": False},
    "biases": {"attention_bias": True},
    "window": {"use_sliding_window": True, "sliding_window": 8},
    "tied": {"tie_word_embeddings": True},
}
