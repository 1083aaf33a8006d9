"""StarCoder 2: rotary positions and key-value groups as Llama's, LayerNorm, an MLP without a gate, biases everywhere.

Source: Lozhkov et al. 2024 §5; transformers models/starcoder2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import renamed

HARMLESS = ("activation_function", "attention_softmax_in_fp32")  # hidden_act is what is read


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("mlp_type", "default")
    keys.only("norm_type", "layer_norm")
    bias = keys.switch("use_bias", True)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        gated=False,
        activation=keys.activation("hidden_act", "gelu_pytorch_tanh"),
        norm=NormConfig(kind="layer", eps=keys.get("norm_epsilon", 1e-5), bias=True),
        windows=(keys.get("sliding_window"),) * keys.num_layers("num_hidden_layers"),
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf, attention = llama.base_to_hf(config), config.layers[0].mixer
    return hf | {
        "architectures": ["Starcoder2ForCausalLM"],
        "norm_epsilon": hf.pop("rms_norm_eps"),
        "use_bias": attention.qkv_bias,
        "sliding_window": attention.window,
    }


WEIGHTS = renamed(llama.WEIGHTS, {"up_proj": "c_fc", "down_proj": "c_proj"})
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("starcoder2", metadata, tensors, eps="layer_norm_epsilon")
    return common | {
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": common.pop("rms_norm_eps"),
        "use_bias": has_bias(tensors, "attn_q", "ffn_up"),
    }


GGUF = GGUF(
    architecture="starcoder2",
    needs=("blk.*.attn_output.bias", "blk.*.ffn_*.bias"),
    hf=gguf_hf,
    weights=llama_rules(),
    ignored=("rope_freqs.weight",),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "starcoder2",
    "hidden_act": "gelu_pytorch_tanh",
    "norm_epsilon": 1e-5,
    "sliding_window": 8,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_bias": {"use_bias": False},
    "no_window": {"sliding_window": None},
    "untied": {"tie_word_embeddings": False},
}
