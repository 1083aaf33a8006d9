"""Llama 1–3, SmolLM2, TinyLlama: and all that call themselves ``llama``; the pattern that its relatives vary.

x + attention(rms(x)), then x + down(silu(gate(x)) ⊙ up(x)); rotary positions on halves; no biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.base.array import Array
from pellucid.config import (
    Activation,
    AttentionConfig,
    ExpertsConfig,
    LayerConfig,
    Mixer,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    RopeConfig,
)
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many, rope, rope_to_hf
from pellucid.families.translation.rules import PermuteRope, Rule, both


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    attention_bias = keys.switch("attention_bias", False)
    return build(keys, qkv_bias=attention_bias, o_bias=attention_bias, mlp_bias=keys.switch("mlp_bias", False))


def build(
    keys: Keys,
    *,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    gated: bool = True,
    activation: Activation | None = None,
    norm: NormConfig | None = None,
    eps: float = 1e-6,
    norms: PartNorms | tuple[PartNorms, PartNorms] | None = None,
    qk_norm: NormConfig | bool | None = None,
    head_dim: int | None = None,
    rotary: RopeConfig | None = None,
    ropes: Sequence[RopeConfig | None] | None = None,
    windows: Sequence[int | None] | None = None,
    mlps: tuple[tuple[MLPConfig, ExpertsConfig | None], ...] | None = None,
    mixers: Sequence[Mixer | None] | None = None,
    attention: Mapping[str, Any] | None = None,
    layer: Mapping[str, Any] | None = None,
    tied: bool = False,
    **fields: Any,
) -> ModelConfig:
    """A decoder of Llama's shape from its config keys; relatives say what they have otherwise.

    ``eps``: of a config that does not say it. ``norms``: those of both parts, or of attention and of the MLP, where
    they are not ``norm`` before each. ``qk_norm``: True for ``norm``. By layer: its rotation (``ropes``; ``rotary`` is
    every layer's), its window, its MLP and experts (``mlps``), a mixer of another kind in attention's place
    (``mixers``). ``attention``, ``layer`` and ``fields`` are fields of every layer's attention, of every layer, of the
    model.
    """
    d_model, num_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    head_dim = keys.size("head_dim", head_dim or max(d_model // num_heads, 1))
    num_layers, context_len = keys.num_layers("num_hidden_layers"), keys.size("max_position_embeddings", 2048)
    norm = norm or NormConfig(kind="rms", eps=keys.get("rms_norm_eps", eps))
    norms = norms or PartNorms(before=norm)
    mixer_norms, mlp_norms = (norms, norms) if isinstance(norms, PartNorms) else norms
    mixers = mixers or (None,) * num_layers
    if not ropes and None in mixers:
        ropes = (rotary or rope(keys, head_dim, context_len),) * num_layers
    if mlps is None:
        dense = MLPConfig(
            d_ff=keys.size("intermediate_size"),
            activation=activation or keys.activation("hidden_act", "silu"),
            gated=gated,
            bias=mlp_bias,
        )
        mlps = ((dense, None),) * num_layers
    num_kv_heads = keys.size("num_key_value_heads", num_heads)

    def layer_of(
        mixer: Mixer | None,
        rotary: RopeConfig | None,
        window: int | None,
        mlp: MLPConfig,
        experts: ExpertsConfig | None,
    ) -> LayerConfig:
        mixer = mixer or AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            qk_norm=norm if qk_norm is True else qk_norm or None,
            rope=rotary,
            window=window,
            **attention or {},
        )
        return LayerConfig(
            mixer=mixer, mlp=mlp, mixer_norms=mixer_norms, mlp_norms=mlp_norms, experts=experts, **layer or {}
        )

    none = (None,) * num_layers
    by_layer = zip(mixers, ropes or none, windows or none, mlps, strict=True)
    return ModelConfig(
        model_type=keys.get("model_type", "llama"),
        vocab_size=keys.size("vocab_size"),
        d_model=d_model,
        context_len=context_len,
        layers=tuple(layer_of(mixer, rotary, window, *mlp) for mixer, rotary, window, mlp in by_layer),
        final_norm=norm,
        **fields,
        **keys.common(tied=tied),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return base_to_hf(config) | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": layer.mixer.qkv_bias,
        "mlp_bias": layer.mlp.bias,
    }


def base_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys that every relative of Llama has."""
    attention, mlp = next((layer.attends for layer in config.layers if layer.attends), None), config.layers[0].mlp
    norm = config.final_norm
    assert norm is not None
    return {
        **config.extra,
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.num_heads if attention else 1,  # one that no layer has
        "num_key_value_heads": attention.num_kv_heads if attention else 1,
        "head_dim": attention.head_dim if attention else config.d_model,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(mlp.activation, mlp.activation),
        "max_position_embeddings": config.context_len,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
        **(rope_to_hf(config.ropes[0]) if config.ropes else {}),
    }


WEIGHTS = (
    Rule("model.embed_tokens.weight", "embed.weight"),
    *both("model.layers.{i}.input_layernorm", "layers.{i}.attention_norm"),
    *both("model.layers.{i}.self_attn.q_proj", "layers.{i}.attention.q_proj"),
    *both("model.layers.{i}.self_attn.k_proj", "layers.{i}.attention.k_proj"),
    *both("model.layers.{i}.self_attn.v_proj", "layers.{i}.attention.v_proj"),
    *both("model.layers.{i}.self_attn.o_proj", "layers.{i}.attention.o_proj"),
    *both("model.layers.{i}.post_attention_layernorm", "layers.{i}.mlp_norm"),
    *both("model.layers.{i}.mlp.gate_proj", "layers.{i}.mlp.gate_proj"),
    *both("model.layers.{i}.mlp.up_proj", "layers.{i}.mlp.up_proj"),
    *both("model.layers.{i}.mlp.down_proj", "layers.{i}.mlp.down_proj"),
    *both("model.norm", "final_norm"),
    *both("lm_head", "lm_head"),
)
IGNORED = ("*.rotary_emb.inv_freq",)


def gguf_hf(
    metadata: Metadata, tensors: Mapping[str, Array], architecture: str = "llama", kv_heads: int | None = None
) -> dict[str, Any]:
    return common_keys(architecture, metadata, tensors, kv_heads=kv_heads) | {
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": has_bias(tensors, "ffn_gate", "ffn_up", "ffn_down"),
    }


# llama.cpp's converter interleaves the rotary pairs of q and k for this architecture alone.
Q_ROWS, K_ROWS = (
    PermuteRope(lambda attention: attention.num_heads),
    PermuteRope(lambda attention: attention.num_kv_heads),
)
GGUF = GGUF(
    architecture="llama", hf=gguf_hf, weights=llama_rules(q=(Q_ROWS,), k=(K_ROWS,)), ignored=("rope_freqs.weight",)
)

TINY = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The optional parts of this family, each a change to TINY. None takes a key away.
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "mlp_bias": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "multi_head": {"num_key_value_heads": None},
    "multi_query": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": 16},
    "gelu": {"hidden_act": "gelu"},
    "rope_theta": {"rope_theta": 500.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "yarn_mscale": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "beta_fast": 4.0,
            "beta_slow": 2.0,
        }
    },
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 2.0,
            "original_max_position_embeddings": 32,
            "short_factor": [1.0, 1.1, 1.3, 1.7],
            "long_factor": [1.0, 1.5, 2.5, 4.0],
        }
    },
}
