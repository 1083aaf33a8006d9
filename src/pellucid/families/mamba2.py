"""Mamba-2: no attention and no MLP; every layer is a selective state space, a state for each head.

Source: Dao & Gu 2024; transformers models/mamba2. Positions are no part of it: its context is as long as memory is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import LayerConfig, Mamba2Config, ModelConfig, NormConfig, PartNorms
from pellucid.families import mamba
from pellucid.families.translation.gguf import GGUF, has_bias, short, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.mamba import (
    CONTEXT,
    bounds,
    bounds_to_hf,
    expansion,
    gguf_mamba2_rules,
    mamba2_rules,
    ssm_keys,
)
from pellucid.families.translation.rules import Rule, both

HARMLESS = ("time_step_rank", "time_step_m*", "time_step_floor", "rescale_prenorm_residual", "chunk_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    d_model = keys.size("hidden_size", 4096)
    num_heads, head_dim, groups = keys.size("num_heads", 128), keys.size("head_dim", 64), keys.size("n_groups", 8)
    keys.only("expand", expansion(num_heads * head_dim, d_model))
    keys.only("intermediate_size", num_heads * head_dim)
    bias, eps = keys.switch("use_bias", False), keys.get("layer_norm_epsilon", 1e-5)
    mixer = Mamba2Config(
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=keys.size("state_size", 128),
        num_groups=groups,
        width=keys.size("conv_kernel", 4),
        conv_bias=keys.switch("use_conv_bias", True),
        bias=bias,
        o_bias=bias,
        activation=keys.activation("hidden_act", "silu"),
        norm=NormConfig(eps=eps, groups=groups),
        **bounds(keys),
    )
    norm = NormConfig(eps=eps)
    layer = LayerConfig(mixer=mixer, mlp=None, mixer_norms=PartNorms(before=norm), mlp_norms=PartNorms())
    return ModelConfig(
        model_type=keys.get("model_type", "mamba2"),
        vocab_size=keys.size("vocab_size", 32768),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", CONTEXT),
        layers=(layer,) * keys.num_layers("num_hidden_layers"),
        final_norm=norm,
        wide_stream=keys.switch("residual_in_fp32", True),
        **keys.common(tied=False),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixer, norm = config.layers[0].mixer, config.final_norm
    assert isinstance(mixer, Mamba2Config)
    assert norm
    return {
        **config.extra,
        "model_type": config.model_type,
        "architectures": ["Mamba2ForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "expand": expansion(mixer.channels, config.d_model),
        "num_hidden_layers": config.num_layers,
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "state_size": mixer.state_size,
        "n_groups": mixer.num_groups,
        "conv_kernel": mixer.width,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
        "hidden_act": mixer.activation,
        "layer_norm_epsilon": norm.eps,
        "residual_in_fp32": config.wide_stream,
        "max_position_embeddings": config.context_len,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
        **bounds_to_hf(mixer),
    }


WEIGHTS = (
    Rule("backbone.embeddings.weight", "embed.weight"),
    *both("backbone.layers.{i}.norm", "layers.{i}.attention_norm"),
    *mamba2_rules("backbone.layers.{i}.mixer"),
    *both("backbone.norm_f", "final_norm"),
    *both("lm_head", "lm_head"),
)
IGNORED = mamba.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    sizes, d_model = ssm_keys("mamba2", metadata), metadata.needed("mamba2.embedding_length")
    num_heads = sizes["time_step_rank"]  # by the name of what Mamba has in their place
    return {
        "model_type": "mamba2",
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": d_model,
        "num_hidden_layers": metadata.needed("mamba2.block_count"),
        "expand": expansion(sizes["inner_size"], d_model),
        "num_heads": num_heads,
        "head_dim": sizes["inner_size"] // num_heads,
        "state_size": sizes["state_size"],
        "n_groups": metadata.needed("mamba2.ssm.group_count"),
        "conv_kernel": sizes["conv_kernel"],
        "use_conv_bias": has_bias(tensors, "ssm_conv1d"),
        "use_bias": has_bias(tensors, "ssm_in", "ssm_out"),
        "layer_norm_epsilon": short(metadata.needed("mamba2.attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": metadata.needed("mamba2.context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


GGUF = GGUF(
    architecture="mamba2",
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        Rule("blk.{i}.attn_norm.weight", "layers.{i}.attention_norm.weight"),
        *gguf_mamba2_rules(),
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output.weight", "lm_head.weight"),
    ),
)

TINY = {
    "model_type": "mamba2",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 8,
    "head_dim": 8,
    "state_size": 6,
    "n_groups": 2,
    "chunk_size": 8,
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"use_bias": True},
    "no_conv_bias": {"use_conv_bias": False},
    "narrow_stream": {"residual_in_fp32": False},
    "tied": {"tie_word_embeddings": True},
    "bounded_steps": {"time_step_limit": [0.6, 0.8]},
    "one_group": {"n_groups": 1, "expand": 1, "num_heads": 2, "head_dim": 16, "conv_kernel": 2},
}
