"""nanochat: norms without weights, also over the embedding and over rotated q and k; relu², and capped logits.

Its pairs turn backwards, (x₂, x₁) as others' (x₁, x₂): the halves of q's and k's heads change places on the way in.
Source: Karpathy's nanochat/gpt.py; transformers models/nanochat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, SwapHalves, both, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), weight=False)
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        gated=False,
        activation=keys.activation("hidden_act", "relu2"),
        norm=norm,
        qk_norm=True,
        attention={"qk_norm_at": "after"},
        embedding_norm=norm,
        logit_softcap=keys.get("final_logit_softcapping") if "final_logit_softcapping" in hf else 15.0,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf = llama.base_to_hf(config)
    del hf["head_dim"]
    return hf | {
        "architectures": ["NanoChatForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
        "final_logit_softcapping": config.logit_softcap,
    }


_AT, _OURS = "model.layers.{i}.", "layers.{i}."
WEIGHTS = (
    *without(llama.WEIGHTS, "norm", "q_proj", "k_proj", "mlp"),
    *both(_AT + "self_attn.q_proj", _OURS + "attention.q_proj", (SwapHalves(),)),
    *both(_AT + "self_attn.k_proj", _OURS + "attention.k_proj", (SwapHalves(),)),
    Rule(_AT + "mlp.fc1.weight", _OURS + "mlp.up_proj.weight"),
    Rule(_AT + "mlp.fc2.weight", _OURS + "mlp.down_proj.weight"),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "nanochat", "hidden_act": "relu2", "tie_word_embeddings": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "uncapped": {"final_logit_softcapping": None},
    "rope_theta": llama.VARIANTS["rope_theta"],
}
