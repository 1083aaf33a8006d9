"""What GGUF files of llama.cpp's converter have in common: metadata keys → Hugging Face's, and tensor names → ours.

Source: llama.cpp gguf-py/gguf/constants.py (names) and convert_hf_to_gguf.py (what the converter did).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import LayerConfig
from pellucid.families.rules import Rule, Transform, Unstack


@dataclass(frozen=True)
class GGUF:
    """How one architecture is read from GGUF: config, weights, tensors that are not weights.

    ``experts``: whether it is the architecture's files that have some (Mixtral's are of architecture ``llama``).
    """

    architecture: str
    hf: Callable[[Mapping[str, Any], Mapping[str, Array]], dict[str, Any]]
    weights: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    experts: bool = False


def key(metadata: Mapping[str, Any], name: str) -> Any:
    """A metadata value that must be there."""
    if name not in metadata:
        raise ConfigError(
            f"{name} is missing from the metadata",
            where="GGUF",
            remedy="the file may be damaged or very old; convert it again",
        )
    value = metadata[name]
    return value.item() if isinstance(value, np.generic) else value


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """bos, eos, pad ids; every end-of-turn id that the file names counts as an end."""
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(int(i) for i in named if i is not None))
    ids = {
        name: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in (("bos", "bos"), ("pad", "padding"))
    }
    written = {f"{name}_token_id": int(i) for name, i in ids.items() if i is not None}
    return written | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


def vocab_size(metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> int:
    """Rows of the embedding table: the one number that cannot disagree with the weights."""
    table = tensors.get("token_embd.weight")
    return table.shape[0] if table is not None else len(key(metadata, "tokenizer.ggml.tokens"))


def common_keys(architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The Hugging Face config of a decoder of Llama's shape."""

    def own(name: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{name}", default)
        return value.item() if isinstance(value, np.generic) else value

    num_heads = key(metadata, f"{architecture}.attention.head_count")
    d_model = key(metadata, f"{architecture}.embedding_length")
    if not isinstance(num_heads, int) or num_heads <= 0:
        raise ConfigError(
            f"{architecture}.attention.head_count must be a positive number", where="GGUF", received=repr(num_heads)
        )
    head_dim = own("attention.key_length") or d_model // num_heads
    hf = {
        "model_type": architecture,
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": d_model,
        "intermediate_size": key(metadata, f"{architecture}.feed_forward_length"),
        "num_hidden_layers": key(metadata, f"{architecture}.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": own("attention.head_count_kv") or num_heads,
        "head_dim": head_dim,
        "max_position_embeddings": key(metadata, f"{architecture}.context_length"),
        "rms_norm_eps": _short(own("attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": own("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }
    if scaling := _rope_scaling(own, tensors):
        hf["rope_scaling"] = scaling
    return hf


def _short(value: float) -> float:
    """A float32 back to the decimal it was written as: 9.999999747378752e-06 → 1e-05."""
    return float(str(np.float32(value)))


def _rope_scaling(own: Callable[..., Any], tensors: Mapping[str, Array]) -> dict[str, Any] | None:
    if (
        factors := tensors.get("rope_freqs.weight")
    ) is not None:  # Llama 3.1: the converter wrote the factors themselves
        return {"rope_type": "factors", "short_factor": [float(f) for f in factors.data.ravel()]}
    kind = own("rope.scaling.type")
    if kind in (None, "none"):
        return None
    return {
        "rope_type": kind,
        "factor": own("rope.scaling.factor", 1.0),
        "original_max_position_embeddings": own("rope.scaling.original_context_length"),
        "attention_factor": own("rope.scaling.attn_factor"),
    }


def llama_rules(*, q: tuple[Transform, ...] = (), k: tuple[Transform, ...] = ()) -> tuple[Rule, ...]:
    """Tensor names of a decoder of Llama's shape; ``q`` and ``k`` undo what the converter did to those rows."""
    at = "layers.{i}."
    return (
        Rule("token_embd.weight", "embed.weight"),
        Rule("blk.{i}.attn_norm.weight", at + "attention_norm.weight"),
        Rule("blk.{i}.attn_q.weight", at + "attention.q_proj.weight", q),
        Rule("blk.{i}.attn_q.bias", at + "attention.q_proj.bias", q),
        Rule("blk.{i}.attn_k.weight", at + "attention.k_proj.weight", k),
        Rule("blk.{i}.attn_k.bias", at + "attention.k_proj.bias", k),
        Rule("blk.{i}.attn_v.weight", at + "attention.v_proj.weight"),
        Rule("blk.{i}.attn_v.bias", at + "attention.v_proj.bias"),
        Rule("blk.{i}.attn_q_norm.weight", at + "attention.q_norm.weight"),
        Rule("blk.{i}.attn_k_norm.weight", at + "attention.k_norm.weight"),
        Rule("blk.{i}.attn_output.weight", at + "attention.o_proj.weight"),
        Rule("blk.{i}.attn_output.bias", at + "attention.o_proj.bias"),
        Rule("blk.{i}.ffn_norm.weight", at + "mlp_norm.weight"),
        Rule("blk.{i}.ffn_gate.weight", at + "mlp.gate_proj.weight"),
        Rule("blk.{i}.ffn_gate.bias", at + "mlp.gate_proj.bias"),
        Rule("blk.{i}.ffn_up.weight", at + "mlp.up_proj.weight"),
        Rule("blk.{i}.ffn_up.bias", at + "mlp.up_proj.bias"),
        Rule("blk.{i}.ffn_down.weight", at + "mlp.down_proj.weight"),
        Rule("blk.{i}.ffn_down.bias", at + "mlp.down_proj.bias"),
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output.weight", "lm_head.weight"),
    )


def experts_keys(architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The Hugging Face config keys of a mixture of experts, by the names that Qwen's have."""
    keys = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
    return {theirs: _whole(key(metadata, f"{architecture}.{name}")) for theirs, name in keys.items()}


def expert_width(architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> int:
    """Neurons of an expert: what the metadata say, or, where they do not, the tensors' own."""
    said = metadata.get(f"{architecture}.expert_feed_forward_length")
    if said is not None:
        return _whole(said)
    stack = next((tensors[name] for name in tensors if name.endswith(".ffn_up_exps.weight")), None)
    return (
        stack.shape[1]
        if stack is not None and len(stack.shape) == 3
        else _whole(key(metadata, f"{architecture}.feed_forward_length"))
    )


@dataclass(frozen=True)
class OneRow:
    """A vector (D,) as a matrix of one row (1, D); the converter writes the shared expert's gate either way."""

    def forward(self, arrays: list[Array], layer: LayerConfig | None) -> list[Array]:
        return [array.with_data(array.data.reshape(1, -1)) for array in arrays]

    def inverse(self, arrays: list[Array], layer: LayerConfig | None) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]


def _whole(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# The router, and the experts of a layer in one tensor each.
EXPERT_RULES = (
    Rule("blk.{i}.ffn_gate_inp.weight", "layers.{i}.mlp.router.weight"),
    *(
        Rule(f"blk.{{i}}.ffn_{name}_exps.weight", f"layers.{{i}}.mlp.experts.{{e}}.{name}_proj.weight", (Unstack(),))
        for name in ("gate", "up", "down")
    ),
)
SHARED_EXPERT_RULES = (
    *(
        Rule(f"blk.{{i}}.ffn_{name}_shexp.weight", f"layers.{{i}}.mlp.shared.{name}_proj.weight")
        for name in ("gate", "up", "down")
    ),
    Rule("blk.{i}.ffn_gate_inp_shexp.weight", "layers.{i}.mlp.shared_gate.weight", (OneRow(),)),
)
