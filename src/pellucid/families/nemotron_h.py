"""Nemotron-H: layers of one part each, Mamba-2, attention without positions, an MLP or a mixture of experts.

Source: NVIDIA 2025 (*Nemotron-H*) §2; transformers models/nemotron_h. Step sizes lie in ``time_step_limit``, as
NVIDIA's code and kernels have it; transformers keeps them above ``time_step_min`` in a prompt, and not when it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.base.typed import shown
from pellucid.config import (
    AttentionConfig,
    ExpertsConfig,
    LayerConfig,
    Mamba2Config,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
)
from pellucid.families.translation.experts import expert_rules
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    deepseek_keys,
    has_bias,
    heads_by_layer,
    llama_rules,
    short,
    special_tokens,
    vocab_size,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.mamba import bounds, bounds_to_hf, gguf_mamba2_rules, mamba2_keys, mamba2_rules
from pellucid.families.translation.rules import Rule, Unstack, both, without

# How a new model begins, how it is run, and heads that guess further tokens.
HARMLESS = (
    *("time_step_rank", "time_step_m*", "time_step_floor", "rescale_prenorm_residual", "residual_in_fp32"),
    *("chunk_size", "mamba_chunk_size", "use_mamba_kernels", "mamba_ssm_cache_dtype", "mamba_dt_m*", "mamba_dt_init*"),
    *("num_nextn_predict_layers", "mtp_*", "moe_shared_expert_overlap", "expand", "num_hidden_layers", "mamba_expand"),
)
OF_EXPERTS = (
    *("moe_intermediate_size", "moe_shared_expert_intermediate_size", "moe_latent_size", "n_routed_experts"),
    *("n_shared_experts", "num_experts_per_tok", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"),
)
LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
WORDS = {"mamba": "linear_attention", "attention": "full_attention"}  # of files before transformers 5


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    d_model, norm = keys.size("hidden_size", 4096), NormConfig(eps=_eps(keys), wide=True)
    kinds = _kinds(keys)
    keys.only("sliding_window", None)
    mixers = {"linear_attention": _mamba2(keys, norm.eps), "full_attention": _attention(keys)}
    mlps: dict[str, tuple[MLPConfig, ExpertsConfig | None]] = {"mlp": (_mlp(keys, "intermediate_size"), None)}
    if "moe" in kinds:
        mlps["moe"] = (_mlp(keys, "moe_intermediate_size"), _experts(keys))
    else:
        for name in OF_EXPERTS:  # transformers writes their defaults where no layer has experts
            keys.get(name)
    before = PartNorms(before=norm)

    def layer(kind: str) -> LayerConfig:
        mixer, (mlp, experts) = mixers.get(kind), mlps.get(kind, (None, None))
        return LayerConfig(
            mixer=mixer,
            mlp=mlp,
            experts=experts,
            mixer_norms=before if mixer else PartNorms(),
            mlp_norms=before if mlp else PartNorms(),
        )

    return ModelConfig(
        model_type=keys.get("model_type", "nemotron_h"),
        vocab_size=keys.size("vocab_size", 131072),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", 4096),
        layers=tuple(map(layer, kinds)),
        final_norm=norm,
        **keys.common(tied=False),
    )


def _eps(keys: Keys) -> float:
    """By its name of today, or those that it had."""
    names = ("layer_norm_epsilon", "norm_eps", "rms_norm_eps")
    return next((value for value in [keys.get(name) for name in names] if value is not None), 1e-5)


def _kinds(keys: Keys) -> list[str]:
    """Each layer's: a list of words, or a text of a letter a layer."""
    words, letters = keys.get("layers_block_type", keys.get("layer_types")), keys.get("hybrid_override_pattern")
    kinds = [LETTERS.get(letter, letter) for letter in letters] if words is None and isinstance(letters, str) else words
    if kinds is None:
        kinds = ["linear_attention", "moe", "full_attention", "mlp"]
    if not isinstance(kinds, list) or not kinds or not all(isinstance(kind, str) for kind in kinds):
        raise UnsupportedError("layers_block_type must name each layer's part", where=keys.where, received=shown(kinds))
    kinds = [WORDS.get(kind, kind) for kind in kinds]
    if unknown := [kind for kind in kinds if kind not in LETTERS.values()]:
        raise UnsupportedError(
            f"layers_block_type: {shown(unknown[0])} is not implemented",
            where=keys.where,
            expected=", ".join(LETTERS.values()),
        )
    return kinds


def _mamba2(keys: Keys, eps: float) -> Mamba2Config:
    groups, bias = keys.size("n_groups", keys.size("mamba_n_groups", 8)), keys.switch("use_bias", False)
    keys.only("mamba_proj_bias", False, bias)
    return Mamba2Config(
        num_heads=keys.size("mamba_num_heads", 128),
        head_dim=keys.size("mamba_head_dim", 64),
        state_size=keys.size("ssm_state_size", 128),
        num_groups=groups,
        width=keys.size("conv_kernel", keys.size("mamba_d_conv", 4)),
        conv_bias=bool(keys.get("use_conv_bias", keys.get("mamba_conv_bias", True))),
        bias=bias,
        o_bias=bias,
        activation=keys.activation("mamba_hidden_act", "silu"),
        norm=NormConfig(eps=eps, groups=groups),
        **bounds(keys),
    )


def _attention(keys: Keys) -> AttentionConfig:
    keys.only("attention_bias", False)  # the code of it has no biases, whatever the file says
    num_heads = keys.size("num_attention_heads", 32)
    return AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=keys.size("num_key_value_heads", 8),
        head_dim=keys.size("head_dim", keys.size("attention_head_dim", 128)),
    )


def _mlp(keys: Keys, width: str) -> MLPConfig:
    activation, bias = keys.activation("mlp_hidden_act", "relu2"), keys.switch("mlp_bias", False)
    default = {"intermediate_size": 21504}.get(width, 7688)
    return MLPConfig(d_ff=keys.size(width, default), activation=activation, gated=False, bias=bias)


def _experts(keys: Keys) -> ExpertsConfig:
    """Routed as DeepSeek-V3's, and one that every token goes through."""
    keys.only("moe_latent_size", None)
    keys.only("mlp_bias", False)
    normalize = keys.switch("norm_topk_prob", True)
    keys.get("n_shared_experts")  # one, of the width that is said
    return ExpertsConfig(
        num_experts=keys.size("n_routed_experts", 8),
        experts_per_token=keys.size("num_experts_per_tok", 2),
        scores="sigmoid",
        correction_bias=True,
        num_groups=keys.size("n_group", 1),
        groups_per_token=keys.size("topk_group", 1),
        normalize=normalize,
        normalize_eps=1e-20 if normalize else 0.0,
        scale=float(keys.get("routed_scaling_factor", 1.0)),
        wide=True,
        shared=_mlp(keys, "moe_shared_expert_intermediate_size"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    norm = config.final_norm
    assert norm
    written = {
        **config.extra,
        "model_type": config.model_type,
        "architectures": ["NemotronHForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "layers_block_type": [_kind(layer) for layer in config.layers],
        "max_position_embeddings": config.context_len,
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }
    for layer in config.layers:  # what there is no layer of is not said
        written |= _part_to_hf(layer)
    return written


def _kind(layer: LayerConfig) -> str:
    if layer.mixer is None:
        return "moe" if layer.experts else "mlp"
    return "full_attention" if layer.attention else "linear_attention"


def _part_to_hf(layer: LayerConfig) -> dict[str, Any]:
    mixer, mlp, experts = layer.mixer, layer.mlp, layer.experts
    if isinstance(mixer, AttentionConfig):
        return {
            "num_attention_heads": mixer.num_heads,
            "num_key_value_heads": mixer.num_kv_heads,
            "head_dim": mixer.head_dim,
        }
    if isinstance(mixer, Mamba2Config):
        return {
            "mamba_num_heads": mixer.num_heads,
            "mamba_head_dim": mixer.head_dim,
            "ssm_state_size": mixer.state_size,
            "n_groups": mixer.num_groups,
            "conv_kernel": mixer.width,
            "use_conv_bias": mixer.conv_bias,
            "use_bias": mixer.bias,
            "mamba_hidden_act": mixer.activation,
            **bounds_to_hf(mixer),
        }
    assert mlp
    common = {"mlp_hidden_act": mlp.activation, "mlp_bias": mlp.bias}
    if experts is None:
        return common | {"intermediate_size": mlp.d_ff}
    assert experts.shared
    return common | {
        "moe_intermediate_size": mlp.d_ff,
        "moe_shared_expert_intermediate_size": experts.shared.d_ff,
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "n_group": experts.num_groups,
        "topk_group": experts.groups_per_token,
        "norm_topk_prob": experts.normalize,
        "routed_scaling_factor": experts.scale,
    }


_AT = "backbone.layers.{i}"
WEIGHTS = (
    Rule("backbone.embeddings.weight", "embed.weight"),
    Rule(f"{_AT}.norm.weight", "layers.{i}.attention_norm.weight"),
    Rule(f"{_AT}.norm.weight", "layers.{i}.mlp_norm.weight"),
    *mamba2_rules(f"{_AT}.mixer"),
    *(Rule(f"{_AT}.mixer.{one}_proj.weight", f"layers.{{i}}.attention.{one}_proj.weight") for one in "qkvo"),
    *both(f"{_AT}.mixer.up_proj", "layers.{i}.mlp.up_proj"),
    *both(f"{_AT}.mixer.down_proj", "layers.{i}.mlp.down_proj"),
    *without(
        expert_rules(f"{_AT}.mixer", shared="shared_experts", correction="gate.e_score_correction_bias"), "gate_proj"
    ),
    Rule("backbone.norm_f.weight", "final_norm.weight"),
    Rule("lm_head.weight", "lm_head.weight"),
)
ALSO = tuple(  # as transformers 5 has them in memory
    Rule(f"{_AT}.mixer.experts.{name}_proj", f"layers.{{i}}.mlp.experts.{{e}}.{name}_proj.weight", (Unstack(),))
    for name in ("up", "down")
)
IGNORED = ("mtp.*",)


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp tells a layer's part by two lists: one that has heads of keys and values attends, one that has neurons
    is an MLP or a mixture, and one that has neither is Mamba-2.
    """
    moe = "nemotron_h_moe.block_count" in metadata
    own = "nemotron_h_moe" if moe else "nemotron_h"
    heads, sizes = heads_by_layer(own, metadata), mamba2_keys(own, metadata, tensors)
    neurons = metadata.by_layer(f"{own}.feed_forward_length", len(heads))
    count = metadata.needed(f"{own}.attention.head_count")
    mlp = "moe" if moe else "mlp"
    kinds = ["full_attention" if h else mlp if n else "linear_attention" for h, n in zip(heads, neurons, strict=True)]
    d_model, eps = metadata.needed(f"{own}.embedding_length"), metadata.needed(f"{own}.attention.layer_norm_epsilon")
    hf = {
        "model_type": "nemotron_h",
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": d_model,
        "layers_block_type": kinds,
        "num_attention_heads": count,
        "num_key_value_heads": max(heads) or 1,
        "head_dim": metadata.scalar(f"{own}.attention.key_length") or d_model // count,
        "max_position_embeddings": metadata.needed(f"{own}.context_length"),
        "layer_norm_epsilon": short(metadata.scalar(f"{own}.attention.layer_norm_rms_epsilon") or eps),
        "mlp_bias": has_bias(tensors, "ffn_up", "ffn_down"),
        "mamba_num_heads": sizes["mamba_n_heads"],
        "mamba_head_dim": sizes["mamba_d_head"],
        "ssm_state_size": sizes["mamba_d_state"],
        "n_groups": sizes["mamba_n_groups"],
        "conv_kernel": sizes["mamba_d_conv"],
        "use_conv_bias": sizes["mamba_conv_bias"],
        "use_bias": False,
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }
    metadata.expect(f"{own}.attention.value_length", hf["head_dim"], "values of another width are not implemented")
    if not moe:
        return hf | {"intermediate_size": max(neurons) or 1}
    metadata.expect(f"{own}.moe_latent_size", 0, "experts of a narrower stream are not implemented")
    return (
        hf
        | {name: value for name, value in deepseek_keys(own, metadata, tensors, gating=2).items() if name in ROUTED}
        | {"moe_shared_expert_intermediate_size": metadata.needed(f"{own}.expert_shared_feed_forward_length")}
    )


ROUTED = (
    *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "routed_scaling_factor"),
    *("n_group", "topk_group"),
)


def gguf_keys(config: ModelConfig) -> dict[str, Any]:
    """llama.cpp's own converter says an expert's neurons of each layer that has some."""
    return {
        "feed_forward_length": [layer.mlp.d_ff if layer.mlp else 0 for layer in config.layers],
        "attention.head_count_kv": [layer.attention.num_kv_heads if layer.attention else 0 for layer in config.layers],
        "expert_shared_count": 1 if any(layer.experts for layer in config.layers) else None,
        "rope.dimension_count": 0,
    }


GGUF = GGUF(
    architecture="nemotron_h",
    with_experts="nemotron_h_moe",
    experts=None,
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        Rule("blk.{i}.attn_norm.weight", "layers.{i}.attention_norm.weight"),
        Rule("blk.{i}.attn_norm.weight", "layers.{i}.mlp_norm.weight"),
        *without(llama_rules(), "attn_norm", "ffn_norm", "ffn_gate", "token_embd"),
        *without(EXPERT_RULES, "ffn_gate_exps"),
        *without(SHARED_EXPERT_RULES, "ffn_gate_shexp", "ffn_gate_inp_shexp"),
        *gguf_mamba2_rules(),
    ),
    harmless=("attention.layer_norm_epsilon", "rope.dimension_count", "rope.freq_base"),
    write=gguf_keys,
    for_others=False,
)

TINY = {
    "model_type": "nemotron_h",
    "vocab_size": 96,
    "hidden_size": 32,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 6,
    "n_groups": 2,
    "chunk_size": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"use_bias": True, "mlp_bias": True},
    "no_conv_bias": {"use_conv_bias": False},
    "experts": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40,
        "routed_scaling_factor": 2.5,
    },
}
