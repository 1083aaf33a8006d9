"""ChatGLM2, ChatGLM3 and GLM-4: half of each head turns, in neighbouring pairs; the layout of their own code.

Rotary positions turn the first half of each head's dimensions, pairs interleaved; q, k and v are one projection with
bias, with two key-value heads; gate and up are one projection. Source: modeling_chatglm.py of THUDM/chatglm3-6b and
THUDM/glm-4-9b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.base.notice import notice
from pellucid.config import (
    AttentionConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    RopeConfig,
    RopeScaling,
)
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import SPLIT_GATE_UP, SPLIT_QKV, Rule, gate_up_names, qkv_names

# Keys that change nothing: how scores are scaled on the way (and back), precision, fused kernels, prefix tuning that is
# off (``pre_seq_len``), and the vocabulary's size again.
HARMLESS = (
    *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion", "prefix_projection"),
    *("vocab_size", "num_hidden_layers", "use_flash_attention"),
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("rmsnorm", True)
    keys.only("apply_residual_connection_post_layernorm", False)
    keys.only("post_layer_norm", True)  # a final norm, not post-norm layers
    keys.only("original_rope", True)
    keys.only("pre_seq_len", None)
    d_model, num_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    head_dim = keys.size("kv_channels", max(d_model // num_heads, 1))
    bias = keys.switch("add_bias_linear", False)
    groups = keys.size("multi_query_group_num", 1)
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=groups if keys.get("multi_query_attention", False) else num_heads,
        head_dim=head_dim,
        qkv_bias=keys.switch("add_qkv_bias", False) or bias,
        o_bias=bias,
        rope=_rope(keys, head_dim),
    )
    norm = NormConfig(kind="rms", eps=keys.get("layernorm_epsilon", 1e-5))
    norms = PartNorms(before=norm)
    mlp = MLPConfig(d_ff=keys.size("ffn_hidden_size"), activation="silu", bias=bias)
    return ModelConfig(
        model_type=keys.get("model_type", "chatglm"),
        vocab_size=keys.size("padded_vocab_size"),
        d_model=d_model,
        context_len=keys.size("seq_length", 2048),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("num_layers"),
        final_norm=norm,
        **keys.common(tied=False),
    )


def _rope(keys: Keys, head_dim: int) -> RopeConfig:
    """``rope_ratio`` stretches the context: ChatGLM2-32k's own code divides positions by it, that of ChatGLM3 and all
    later ones multiplies θ. The config tells them apart only by the model's name, or the transformers that wrote it.

    Source: modeling_chatglm.py, RotaryEmbedding, of THUDM/chatglm2-6b-32k and THUDM/chatglm3-6b-32k.
    """
    dim, ratio = int(head_dim * keys.get("partial_rotary_factor", 0.5)), keys.get("rope_ratio", 1)
    name, version = str(keys.get("_name_or_path", "")).lower(), str(keys.get("transformers_version", ""))
    says = next((number for number in ("chatglm2", "chatglm3", "glm-4", "glm4") if number in name), None)
    divides = says == "chatglm2" or (says is None and version.startswith("4.27."))
    if not divides or ratio == 1:
        return RopeConfig(dim=dim, theta=10000.0 * ratio, layout="interleaved")
    notice(f"{keys.where}: rope_ratio = {ratio} divides positions, as in ChatGLM2-32k's code")
    scaling = RopeScaling(kind="linear", factor=ratio, original_context_len=keys.size("seq_length", 2048))
    return RopeConfig(dim=dim, layout="interleaved", scaling=scaling)


def _rope_to_hf(rope: RopeConfig, head_dim: int) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_ratio": rope.theta / 10000.0}
    if rope.scaling is not None and rope.scaling.kind == "linear" and rope.theta == 10000.0:
        written = {"rope_ratio": rope.scaling.factor, "_name_or_path": "THUDM/chatglm2-6b-32k"}
    return written | ({} if rope.dim == head_dim // 2 else {"partial_rotary_factor": rope.dim / head_dim})


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    attention = layer.mixer
    norm = layer.mixer_norms.before
    assert attention.rope is not None
    assert norm is not None
    return {
        **config.extra,
        "model_type": config.model_type,
        "architectures": ["ChatGLMForConditionalGeneration"],
        "padded_vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "ffn_hidden_size": layer.mlp.d_ff,
        "num_layers": config.num_layers,
        "num_attention_heads": attention.num_heads,
        "kv_channels": attention.head_dim,
        "multi_query_attention": attention.num_kv_heads != attention.num_heads,
        "multi_query_group_num": attention.num_kv_heads,
        "seq_length": config.context_len,
        "layernorm_epsilon": norm.eps,
        **_rope_to_hf(attention.rope, attention.head_dim),
        "add_bias_linear": attention.o_bias,
        "add_qkv_bias": attention.qkv_bias,
        "rmsnorm": True,
        "post_layer_norm": True,
        "original_rope": True,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def _block(at: str, norm_1: str, qkv: str, o: str, norm_2: str, up: str, down: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{at}.{norm_1}.weight", "layers.{i}.attention_norm.weight"),
        Rule(f"{at}.{qkv}.weight", qkv_names("weight"), (SPLIT_QKV,)),
        Rule(f"{at}.{qkv}.bias", qkv_names("bias"), (SPLIT_QKV,)),
        Rule(f"{at}.{o}.weight", "layers.{i}.attention.o_proj.weight"),
        Rule(f"{at}.{o}.bias", "layers.{i}.attention.o_proj.bias"),
        Rule(f"{at}.{norm_2}.weight", "layers.{i}.mlp_norm.weight"),
        Rule(f"{at}.{up}.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
        Rule(f"{at}.{up}.bias", gate_up_names("bias"), (SPLIT_GATE_UP,)),
        Rule(f"{at}.{down}.weight", "layers.{i}.mlp.down_proj.weight"),
        Rule(f"{at}.{down}.bias", "layers.{i}.mlp.down_proj.bias"),
    )


WEIGHTS = (
    Rule("transformer.embedding.word_embeddings.weight", "embed.weight"),
    *_block(
        "transformer.encoder.layers.{i}",
        "input_layernorm",
        "self_attention.query_key_value",
        "self_attention.dense",
        "post_attention_layernorm",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ),
    Rule("transformer.encoder.final_layernorm.weight", "final_norm.weight"),
    Rule("transformer.output_layer.weight", "lm_head.weight"),
)
IGNORED = ("transformer.rotary_pos_emb.inv_freq",)


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("chatglm", metadata, tensors, partial_rotary=True)
    if scaling := common.get("rope_scaling"):
        raise UnsupportedError(f"rotary scaling {scaling} is not implemented for ChatGLM", where="GGUF")
    return {
        "model_type": "chatglm",
        "padded_vocab_size": common["vocab_size"],
        "hidden_size": common["hidden_size"],
        "ffn_hidden_size": common["intermediate_size"],
        "num_layers": common["num_hidden_layers"],
        "num_attention_heads": common["num_attention_heads"],
        "kv_channels": common["head_dim"],
        "multi_query_attention": True,
        "multi_query_group_num": common["num_key_value_heads"],
        "seq_length": common["max_position_embeddings"],
        "layernorm_epsilon": common["rms_norm_eps"],
        "rope_ratio": common["rope_theta"] / 10000.0,
        "partial_rotary_factor": common["rope_dimension_count"] / common["head_dim"],
        "add_qkv_bias": has_bias(tensors, "attn_qkv"),
        "add_bias_linear": has_bias(tensors, "attn_output", "ffn_up", "ffn_down"),
        "tie_word_embeddings": common["tie_word_embeddings"],
        **{name: value for name, value in common.items() if name.endswith("_token_id")},
    }


GGUF = GGUF(
    architecture="chatglm",
    square=True,
    lacks=("blk.*.ffn_*.bias", "blk.*.attn_output.bias"),
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        *_block("blk.{i}", "attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"),
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output.weight", "lm_head.weight"),
    ),
    ignored=("rope_freqs.weight",),
)

TINY = {
    "model_type": "chatglm",
    "padded_vocab_size": 96,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 64,
    "layernorm_epsilon": 1.5625e-07,
    "rope_ratio": 500,
    "add_qkv_bias": True,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"add_bias_linear": True},
    "no_bias": {"add_qkv_bias": False},
    "multi_head": {"multi_query_attention": False},
    "tied": {"tie_word_embeddings": True},
    "theta": {"rope_ratio": 1},
    "divided": {"rope_ratio": 4, "_name_or_path": "THUDM/chatglm2-6b-32k"},
    "partial": {"partial_rotary_factor": 0.25},
}
