"""GPT-J: attention and MLP side by side, of one LayerNorm; ``rotary_dim`` of each head turn, in neighbouring pairs.

Source: Wang & Komatsuzaki 2021; transformers models/gptj.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig, PartNorms, RopeConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, both

_NAMES = {  # ours, Llama's, where GPT-J has its own
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
}
HARMLESS = ("n_ctx", "rotary", "scale_attn_weights")  # the context again; what is always so


def config(hf: Mapping[str, Any]) -> ModelConfig:
    width = hf.get("n_inner") or 4 * hf.get("n_embd", 4096)
    known = {name: hf.get(theirs) for name, theirs in _NAMES.items()} | {"intermediate_size": width}
    keys = Keys({name: value for name, value in hf.items() if name not in _NAMES.values()} | known, HARMLESS)
    keys.only("scale_attn_weights", True)
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True)
    return llama.build(
        keys,
        mlp_bias=True,
        gated=False,
        activation=keys.activation("hidden_act", "gelu_new"),
        norm=norm,
        norms=(PartNorms(before=norm), PartNorms()),
        rotary=RopeConfig(dim=keys.size("rotary_dim", 64), layout="interleaved"),
        layer={"parallel": True},
        head_bias=not keys.get("tie_word_embeddings", False),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.base_to_hf(config)
    assert attention.rope
    activation = {"gelu_pytorch_tanh": "gelu_new"}.get(hf["hidden_act"], hf["hidden_act"])
    own = {theirs: hf.pop(name) for name, theirs in _NAMES.items()}
    for name in ("head_dim", "num_key_value_heads", "rope_theta", "rope_scaling"):
        del hf[name]
    return hf | {
        **own,
        "architectures": ["GPTJForCausalLM"],
        "activation_function": activation,
        "layer_norm_epsilon": hf.pop("rms_norm_eps"),
        "rotary_dim": attention.rope.dim,
    }


_AT, _OURS = "transformer.h.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("transformer.wte.weight", "embed.weight"),
    *both(_AT + "ln_1", _OURS + "attention_norm"),
    *both(_AT + "attn.q_proj", _OURS + "attention.q_proj"),
    *both(_AT + "attn.k_proj", _OURS + "attention.k_proj"),
    *both(_AT + "attn.v_proj", _OURS + "attention.v_proj"),
    *both(_AT + "attn.out_proj", _OURS + "attention.o_proj"),
    *both(_AT + "mlp.fc_in", _OURS + "mlp.up_proj"),
    *both(_AT + "mlp.fc_out", _OURS + "mlp.down_proj"),
    *both("transformer.ln_f", "final_norm"),
    *both("lm_head", "lm_head"),
)
IGNORED = ("*.attn.bias", "*.attn.masked_bias", "*.attn.embed_positions")  # the causal mask, and angles, as buffers
GGUF = None

TINY = {
    "model_type": "gptj",
    "vocab_size": 96,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 512,  # transformers has a table of angles of that length
    "rotary_dim": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "narrow": {"n_inner": 48},
    "whole": {"rotary_dim": 8},
    "gelu": {"activation_function": "gelu"},
}
