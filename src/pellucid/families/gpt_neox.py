"""GPT-NeoX and Pythia: attention and MLP side by side, each with its own LayerNorm; q, k and v of each head in one.

Source: Black et al. 2022 §2; Biderman et al. 2023 (Pythia); transformers models/gpt_neox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import SPLIT_QKV, Rule, SplitHeads, both, qkv_names, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({"rope_theta": hf.get("rotary_emb_base"), **hf, "partial_rotary_factor": hf.get("rotary_pct", 0.25)})
    keys.get("rotary_pct")
    keys.get("rotary_emb_base")
    head_dim = max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1)
    bias = keys.switch("attention_bias", True)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        gated=False,
        activation=keys.activation("hidden_act", "gelu"),
        norm=NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5), bias=True),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 2048), partial=0.25),
        layer={"parallel": keys.switch("use_parallel_residual", True)},
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, hf = config.layers[0], llama.base_to_hf(config)
    assert layer.mixer.rope
    for name in ("head_dim", "num_key_value_heads"):
        del hf[name]
    return hf | {
        "architectures": ["GPTNeoXForCausalLM"],
        "layer_norm_eps": hf.pop("rms_norm_eps"),
        "attention_bias": layer.mixer.qkv_bias,
        "use_parallel_residual": layer.parallel,
        "rotary_emb_base": hf.pop("rope_theta"),
        "rotary_pct": partial_rotary_to_hf(layer.mixer.head_dim, layer.mixer.rope.dim),
    }


_AT, _OURS = "gpt_neox.layers.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("gpt_neox.embed_in.weight", "embed.weight"),
    *both(_AT + "input_layernorm", _OURS + "attention_norm"),
    Rule(_AT + "attention.query_key_value.weight", qkv_names("weight"), (SplitHeads(),)),
    Rule(_AT + "attention.query_key_value.bias", qkv_names("bias"), (SplitHeads(),)),
    *both(_AT + "attention.dense", _OURS + "attention.o_proj"),
    *both(_AT + "post_attention_layernorm", _OURS + "mlp_norm"),
    *both(_AT + "mlp.dense_h_to_4h", _OURS + "mlp.up_proj"),
    *both(_AT + "mlp.dense_4h_to_h", _OURS + "mlp.down_proj"),
    *both("gpt_neox.final_layer_norm", "final_norm"),
    Rule("embed_out.weight", "lm_head.weight"),
)
IGNORED = ("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq")  # the causal mask, as a buffer


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("gptneox", metadata, tensors, partial_rotary=True, eps="layer_norm_epsilon")
    head_dim, _ = common.pop("head_dim"), common.pop("num_key_value_heads")
    return common | {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "layer_norm_eps": common.pop("rms_norm_eps"),
        "rotary_pct": partial_rotary_to_hf(head_dim, common.pop("rope_dimension_count")),
        "use_parallel_residual": metadata.scalar("gptneox.use_parallel_residual", True),
    }


GGUF = GGUF(
    architecture="gptneox",
    needs=("output.weight",),
    hf=gguf_hf,
    weights=(
        *without(llama_rules(), "attn_q.", "attn_k.", "attn_v."),
        Rule("blk.{i}.attn_qkv.weight", qkv_names("weight"), (SPLIT_QKV,)),  # the converter puts q, k, v apart
        Rule("blk.{i}.attn_qkv.bias", qkv_names("bias"), (SPLIT_QKV,)),
    ),
    harmless=("attention.layer_norm_rms_epsilon",),
)

TINY = {
    "model_type": "gpt_neox",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "serial": {"use_parallel_residual": False},
    "no_bias": {"attention_bias": False},
    "rotary": {"rotary_pct": 1.0, "rotary_emb_base": 500.0},
    "tied": {"tie_word_embeddings": True},
}
