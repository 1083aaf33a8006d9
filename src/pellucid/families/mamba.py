"""Mamba: no attention and no MLP; every layer is a selective state space, a state for each channel.

Source: Gu & Dao 2023; transformers models/mamba. Positions are no part of it: its context is as long as memory is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import LayerConfig, MambaConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.gguf import GGUF, has_bias, short, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.mamba import CONTEXT, expansion, gguf_mamba_rules, mamba_rules, ssm_keys
from pellucid.families.translation.rules import Rule, both

# How a new model begins, how it is run, and what the files of its first authors say of themselves.
HARMLESS = (
    *("time_step_*", "rescale_prenorm_residual", "use_mambapy", "use_falcon_mambapy", "use_associative_scan"),
    *("d_inner", "d_model", "n_layer", "ssm_cfg", "rms_norm", "fused_add_norm", "pad_vocab_size_multiple"),
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return build(Keys(hf, HARMLESS))


def build(keys: Keys, inner_eps: float | None = None) -> ModelConfig:
    """Mamba's shape; a relative, and files of it that call themselves Mamba, norm Δ's numbers, B and C."""
    inner_eps = keys.get("mixer_rms_eps", inner_eps)
    d_model = keys.size("hidden_size", 768)
    channels = int(keys.get("expand", 2) * d_model)
    keys.only("intermediate_size", channels)
    rank = keys.get("time_step_rank", "auto")
    mixer = MambaConfig(
        channels=channels,
        state_size=keys.size("state_size", 16),
        dt_rank=math.ceil(d_model / 16) if rank == "auto" else keys.size("time_step_rank"),
        width=keys.size("conv_kernel", 4),
        conv_bias=keys.switch("use_conv_bias", True),
        bias=keys.switch("use_bias", False),
        activation=keys.activation("hidden_act", "silu"),
        inner_norm=None if inner_eps is None else NormConfig(eps=inner_eps, weight=False),
    )
    norm = NormConfig(eps=keys.get("layer_norm_epsilon", 1e-5))
    layer = LayerConfig(mixer=mixer, mlp=None, mixer_norms=PartNorms(before=norm), mlp_norms=PartNorms())
    return ModelConfig(
        model_type=keys.get("model_type", "mamba"),
        vocab_size=keys.size("vocab_size", 50280),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", CONTEXT),
        layers=(layer,) * keys.num_layers("num_hidden_layers"),
        final_norm=norm,
        wide_stream=keys.switch("residual_in_fp32", True),
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixer, norm = config.layers[0].mixer, config.final_norm
    assert isinstance(mixer, MambaConfig)
    assert norm
    return {
        **config.extra,
        "model_type": config.model_type,
        "architectures": ["MambaForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "expand": expansion(mixer.channels, config.d_model),
        "intermediate_size": mixer.channels,
        "num_hidden_layers": config.num_layers,
        "state_size": mixer.state_size,
        "time_step_rank": mixer.dt_rank,
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
    }


WEIGHTS = (
    Rule("backbone.embeddings.weight", "embed.weight"),
    *both("backbone.layers.{i}.norm", "layers.{i}.attention_norm"),
    *mamba_rules("backbone.layers.{i}.mixer"),
    *both("backbone.norm_f", "final_norm"),
    *both("lm_head", "lm_head"),
)
IGNORED = ()


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    sizes = ssm_keys("mamba", metadata)
    d_model = metadata.needed("mamba.embedding_length")
    normed = metadata.scalar("mamba.ssm.dt_b_c_rms", False)  # by norms without weights: Falcon Mamba
    eps = short(metadata.needed("mamba.attention.layer_norm_rms_epsilon"))
    return {
        "model_type": "falcon_mamba" if normed else "mamba",
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": d_model,
        "num_hidden_layers": metadata.needed("mamba.block_count"),
        "expand": expansion(sizes["inner_size"], d_model),
        "state_size": sizes["state_size"],
        "time_step_rank": sizes["time_step_rank"],
        "conv_kernel": sizes["conv_kernel"],
        "use_conv_bias": has_bias(tensors, "ssm_conv1d"),
        "use_bias": has_bias(tensors, "ssm_in", "ssm_out"),
        "layer_norm_epsilon": eps,
        "max_position_embeddings": metadata.needed("mamba.context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **({"mixer_rms_eps": eps} if normed else {}),  # llama.cpp norms all by one epsilon
        **special_tokens(metadata),
    }


def _own_keys(config: ModelConfig) -> dict[str, Any]:
    mixer = config.layers[0].mixer
    if getattr(mixer, "channels", 0) != 2 * config.d_model:
        raise UnsupportedError("llama.cpp's mamba has twice as many channels as the stream is wide", where="GGUF")
    return {}


GGUF = GGUF(
    architecture="mamba",
    write=_own_keys,
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        Rule("blk.{i}.attn_norm.weight", "layers.{i}.attention_norm.weight"),
        *gguf_mamba_rules(),
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output.weight", "lm_head.weight"),
    ),
)

TINY = {
    "model_type": "mamba",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 6,
    "time_step_rank": 3,
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"use_bias": True},
    "no_conv_bias": {"use_conv_bias": False},
    "narrow_stream": {"residual_in_fp32": False},
    "untied": {"tie_word_embeddings": False},
    "sizes": {"expand": 3, "conv_kernel": 2, "time_step_rank": "auto", "state_size": 16},
}
