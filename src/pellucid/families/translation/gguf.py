"""What GGUF files of llama.cpp's converter have in common: metadata keys → Hugging Face's, and tensor names → ours.

Source: llama.cpp gguf-py/gguf/constants.py (names) and convert_hf_to_gguf.py (what the converter did).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.base.typed import is_whole, shown
from pellucid.config import MAX_LAYERS, ModelConfig
from pellucid.families.translation.gguf_metadata import NO_TOKEN, Metadata
from pellucid.families.translation.rules import Place, Rule, Transform, Unstack, both


@dataclass(frozen=True)
class GGUF:
    """How one architecture is read from GGUF: config, weights, tensors that are not weights.

    ``experts``: whether it is the architecture's files that have some (Mixtral's are of architecture ``llama``); None:
    either are. ``with_experts``: what the architecture is called where there are some, if that is something else.
    ``harmless``: patterns of its own keys (without its name) that mean nothing for it. ``write``: the keys (without its
    name) of a description, where they are not the common ones (``gguf_out``), for writing; None: this one is not there.
    ``lacks``: patterns of tensors' names that we read and llama.cpp does not; ``needs``: those that it does not open a
    file without. ``for_others``: whether a model of another family that is described alike may be written so; no where
    llama.cpp does not follow all that its files say. ``square``: whether heads are together as wide as the model there;
    ``grouped``: whether several may share keys and values. ``also``: rules for other names that the same weights go by.
    ``when``: of several families that one architecture stands for, whether a file's metadata say that it is this one.
    """

    architecture: str
    hf: Callable[[Metadata, Mapping[str, Array]], dict[str, Any]]
    weights: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    experts: bool | None = False
    with_experts: str | None = None
    harmless: tuple[str, ...] = ("attention.layer_norm_epsilon",)
    write: Callable[[ModelConfig], dict[str, Any]] | None = None
    lacks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    for_others: bool = True
    square: bool = False
    also: tuple[Rule, ...] = ()
    when: Callable[[Mapping[str, Any]], bool] | None = None
    grouped: bool = True

    @property
    def kinds(self) -> tuple[tuple[str, bool], ...]:
        """Each architecture that its files may name, and whether those have experts."""
        if self.experts is None:
            return (self.with_experts or self.architecture, True), (self.architecture, False)
        return ((self.architecture, self.experts),)

    def of(self, experts: bool) -> GGUF:
        """As it is for files with experts, or without."""
        return replace(self, architecture=self.with_experts) if experts and self.with_experts else self


def special_tokens(metadata: Metadata) -> dict[str, Any]:
    """bos, eos, pad ids; every end-of-turn id that the file names counts as an end."""

    def token(name: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if value is None or value == NO_TOKEN else int(value)

    ends = list(dict.fromkeys(id for name in ("eos", "eot", "eom") if (id := token(name)) is not None))
    ids = {"bos": token("bos"), "pad": token("padding")}
    written = {f"{name}_token_id": id for name, id in ids.items() if id is not None}
    return written | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


def vocab_size(metadata: Metadata, tensors: Mapping[str, Array]) -> int:
    """Rows of the embedding table: the one number that cannot disagree with the weights."""
    table = tensors.get("token_embd.weight")
    if table is not None:
        return table.shape[0]
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if tokens is not None else metadata.needed("tokenizer.ggml.tokens")


def common_keys(
    architecture: str,
    metadata: Metadata,
    tensors: Mapping[str, Array],
    *,
    partial_rotary: bool = False,
    latent: bool = False,
    scaled: bool = False,
    eps: str = "layer_norm_rms_epsilon",
    kv_heads: int | None = None,
) -> dict[str, Any]:
    """The Hugging Face config of a decoder of Llama's shape. ``eps``: the name of its norms' epsilon; ``kv_heads``: of
    the layers that attend, where the file has a number a layer.

    ``partial_rotary``: the family reads ``rope_dimension_count`` of what is returned; elsewhere a head turns whole.
    ``latent``: heads' widths are latent attention's (``gguf_latent``), which reads them itself; ``scaled``:
    yarn scales its scores, by ``yarn_log_multiplier``.
    """

    def own(name: str, default: Any = None) -> Any:
        return metadata.scalar(f"{architecture}.{name}", default)

    def needed(name: str) -> Any:
        return metadata.needed(f"{architecture}.{name}")

    num_heads, d_model = needed("attention.head_count"), needed("embedding_length")
    if not isinstance(num_heads, int) or num_heads <= 0:
        raise ConfigError(
            f"{architecture}.attention.head_count must be a positive number", where="GGUF", received=repr(num_heads)
        )
    head_dim = own("attention.key_length") or d_model // num_heads
    if not latent:
        metadata.expect(
            f"{architecture}.attention.value_length", head_dim, "values of another width than keys are not implemented"
        )
    hf = {
        "model_type": architecture,
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": d_model,
        "intermediate_size": needed("feed_forward_length"),
        "num_hidden_layers": needed("block_count") - further_layers(architecture, metadata),
        "num_attention_heads": num_heads,
        "num_key_value_heads": kv_heads or own("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": needed("context_length"),
        "rms_norm_eps": short(needed(f"attention.{eps}")),
        "rope_theta": own("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }
    if partial_rotary:
        hf["rope_dimension_count"] = own("rope.dimension_count", head_dim)
    elif not latent:
        metadata.expect(
            f"{architecture}.rope.dimension_count", head_dim, "rotating a part of each head is not implemented here"
        )
    if scaling := _rope_scaling(architecture, own, tensors, hf["max_position_embeddings"], scaled):
        hf["rope_scaling"] = scaling
    return hf


def further_layers(architecture: str, metadata: Metadata) -> int:
    """How many of a file's layers, its last ones, are heads that guess further tokens, and no part of the decoder."""
    count = metadata.scalar(f"{architecture}.nextn_predict_layers", 0)
    if not isinstance(count, int) or not 0 <= count < metadata.needed(f"{architecture}.block_count"):
        raise ConfigError(
            f"{architecture}.nextn_predict_layers is out of range", where=metadata.where, received=repr(count)
        )
    return count


def heads_by_layer(architecture: str, metadata: Metadata) -> list[int]:
    """Heads of keys and values of each layer; 0 where it does not attend."""
    count = metadata.needed(f"{architecture}.block_count")
    if not is_whole(count) or not 0 < count <= MAX_LAYERS:
        raise ConfigError(f"{architecture}.block_count is out of range", where="GGUF", received=shown(count))
    heads = metadata.by_layer(f"{architecture}.attention.head_count_kv", count)
    if not all(is_whole(number) and number >= 0 for number in heads) or len(set(heads) - {0}) > 1:
        raise UnsupportedError(
            f"{architecture}.attention.head_count_kv must be one number, or 0, a layer",
            where="GGUF",
            received=shown(heads),
        )
    return heads


def has_bias(tensors: Mapping[str, Array], *names: str) -> bool:
    """Whether any layer has a bias of one of these maps (``attn_q``); where a layer has none, it is zero."""
    return any(name.startswith("blk.") and name.endswith(tuple(f".{map}.bias" for map in names)) for name in tensors)


def short(value: float) -> float:
    """A float32 back to the decimal it was written as: 9.999999747378752e-06 → 1e-05."""
    return float(str(np.float32(value)))


def _rope_scaling(
    architecture: str,
    own: Callable[..., Any],
    tensors: Mapping[str, Array],
    context_len: int,
    scaled: bool = False,
) -> dict[str, Any] | None:
    """As llama.cpp reads it: a factor without a type is linear; a factor of 0, or none, does not scale;
    ``attn_factor`` multiplies what yarn itself makes of the magnitude, 0.1 ln s + 1. ``scaled``:
    ``yarn_log_multiplier``, 0.1 · mscale_all_dim, is in the scale of the scores, and yarn makes a magnitude of 1.

    Source: llama.cpp llama-model.cpp (load_hparams), llama-context.cpp (yarn_attn_factor), ggml ops.cpp (rope_yarn).
    """

    def refuse(name: str, value: object) -> NoReturn:
        raise UnsupportedError(f"{architecture}.rope.{name} = {value!r} is not implemented", where="GGUF")

    kind, lists = own("rope.scaling.type", "linear"), _longrope_lists(tensors)
    if kind not in ("none", "linear", "longrope" if lists else "yarn"):
        refuse("scaling.type", kind)
    old = own("rope.scale_linear", 0.0)  # the old name of the factor
    factor = own("rope.scaling.factor", old) or 1.0
    original = own("rope.scaling.original_context_length", 0) or context_len
    magnitude = own("rope.scaling.attn_factor", 1.0)
    fast, slow = own("rope.scaling.yarn_beta_fast", 32.0), own("rope.scaling.yarn_beta_slow", 1.0)
    log_multiplier = 0.0
    for name, plain in (("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)):
        value = own(f"rope.scaling.{name}", plain)
        if scaled and name == "yarn_log_multiplier":
            log_multiplier = short(10 * value)
        elif value != plain and (kind == "yarn" or name == "yarn_attn_factor"):
            refuse(f"scaling.{name}", value)
    factors = tensors.get("rope_freqs.weight")  # Llama 3.1: the converter wrote the factors themselves
    if lists:  # whichever is for the length; what the magnitude is multiplied by is in the file
        if factors is not None or factor != 1.0:
            refuse("scaling.factor", "another scaling beside rope_factors_long.weight")
        return lists | {
            "rope_type": "longrope",
            "factor": context_len / original,
            "original_max_position_embeddings": original,
            "attention_factor": magnitude,
        }
    if kind == "yarn" and factor != 1.0:
        if factors is not None:
            refuse("scaling.type", "yarn beside rope_freqs.weight")
        if scaled and (magnitude != 1.0 or not log_multiplier):
            refuse("scaling.attn_factor", f"{magnitude}, with a yarn_log_multiplier of {0.1 * log_multiplier}")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "attention_factor": magnitude * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0),
            "beta_fast": fast,
            "beta_slow": slow,
        } | ({"attention_factor": magnitude, "mscale_all_dim": log_multiplier} if scaled else {})
    if magnitude != 1.0:
        refuse("scaling.attn_factor", magnitude)
    if kind == "none":
        factor = 1.0
    if factors is not None:
        return {"rope_type": "factors", "short_factor": [factor * float(f) for f in factors.data.ravel()]}
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _longrope_lists(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The factors of every frequency up to the original context, and beyond it; {} where a file has none."""
    names = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
    if not any(name in tensors for name in names.values()):
        return {}
    if absent := [name for name in names.values() if name not in tensors]:
        raise ConfigError(f"{absent[0]} is missing beside its sibling", where="GGUF")
    return {key: [float(f) for f in tensors[name].data.ravel()] for key, name in names.items()}


def llama_rules(*, q: tuple[Transform, ...] = (), k: tuple[Transform, ...] = ()) -> tuple[Rule, ...]:
    """Tensor names of a decoder of Llama's shape; ``q`` and ``k`` undo what the converter did to those rows."""
    at = "layers.{i}."
    return (
        Rule("token_embd.weight", "embed.weight"),
        *both("blk.{i}.attn_norm", at + "attention_norm"),
        *both("blk.{i}.attn_q", at + "attention.q_proj", q),
        *both("blk.{i}.attn_k", at + "attention.k_proj", k),
        *both("blk.{i}.attn_v", at + "attention.v_proj"),
        *both("blk.{i}.attn_q_norm", at + "attention.q_norm"),
        *both("blk.{i}.attn_k_norm", at + "attention.k_norm"),
        *both("blk.{i}.attn_output", at + "attention.o_proj"),
        *both("blk.{i}.ffn_norm", at + "mlp_norm"),
        *both("blk.{i}.ffn_gate", at + "mlp.gate_proj"),
        *both("blk.{i}.ffn_up", at + "mlp.up_proj"),
        *both("blk.{i}.ffn_down", at + "mlp.down_proj"),
        *both("output_norm", "final_norm"),
        *both("output", "lm_head"),
    )


# Norms after a part, before it is added to the stream.
POST_NORM_RULES = (
    Rule("blk.{i}.post_attention_norm.weight", "layers.{i}.attention_post_norm.weight"),
    Rule("blk.{i}.post_ffw_norm.weight", "layers.{i}.mlp_post_norm.weight"),
)


def experts_keys(architecture: str, metadata: Metadata, *, normalize: bool) -> dict[str, Any]:
    """The Hugging Face config keys of a mixture of experts, by the names that Qwen's have. ``normalize``: whether the
    architecture's code makes the weights of the chosen ones sum to 1, whatever the file says.
    """
    if metadata.scalar(f"{architecture}.expert_weights_norm", False) and not normalize:
        raise UnsupportedError(f"{architecture}.expert_weights_norm is not implemented", where=metadata.where)
    keys = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
    return {theirs: metadata.needed(f"{architecture}.{name}") for theirs, name in keys.items()}


def expert_width(architecture: str, metadata: Metadata, tensors: Mapping[str, Array]) -> int:
    """Neurons of an expert: what the metadata say, or, where they do not, the tensors' own."""
    said = metadata.scalar(f"{architecture}.expert_feed_forward_length")
    if said:
        return said
    stack = next((tensors[name] for name in tensors if name.endswith(".ffn_up_exps.weight")), None)
    return (
        stack.shape[1]
        if stack is not None and len(stack.shape) == 3
        else metadata.needed(f"{architecture}.feed_forward_length")
    )


@dataclass(frozen=True)
class OneRow:
    """A vector (D,) as a matrix of one row (1, D); the converter writes the shared expert's gate either way."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(1, -1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]


def deepseek_keys(
    architecture: str, metadata: Metadata, tensors: Mapping[str, Array], gating: int | None = None
) -> dict[str, Any]:
    """The Hugging Face config keys of DeepSeek-V3's routing and of those that follow it: sigmoids with a correction.
    ``gating``: the scores of a file that says nothing of them.
    """

    def own(name: str, default: Any) -> Any:
        return metadata.scalar(f"{architecture}.{name}", default)

    if gating is None or f"{architecture}.expert_gating_func" in metadata:
        metadata.expect(f"{architecture}.expert_gating_func", 2, "its experts are chosen by sigmoids")
    return {
        "n_routed_experts": metadata.needed(f"{architecture}.expert_count"),
        "num_experts_per_tok": metadata.needed(f"{architecture}.expert_used_count"),
        "moe_intermediate_size": expert_width(architecture, metadata, tensors),
        "n_shared_experts": own("expert_shared_count", 0),
        "first_k_dense_replace": own("leading_dense_block_count", 0),
        "norm_topk_prob": bool(own("expert_weights_norm", False)),
        "routed_scaling_factor": short(own("expert_weights_scale", 1.0) or 1.0),
        "n_group": own("expert_group_count", 1) or 1,
        "topk_group": own("expert_group_used_count", 1) or 1,
    }


# The router, and the experts of a layer in one tensor each.
EXPERT_RULES = (
    *both("blk.{i}.ffn_gate_inp", "layers.{i}.mlp.router"),
    Rule("blk.{i}.exp_probs_b.bias", "layers.{i}.mlp.correction_bias"),
    *(
        rule
        for name in ("gate", "up", "down")
        for rule in both(f"blk.{{i}}.ffn_{name}_exps", f"layers.{{i}}.mlp.experts.{{e}}.{name}_proj", (Unstack(),))
    ),
)
SHARED_EXPERT_RULES = (
    *(
        Rule(f"blk.{{i}}.ffn_{name}_shexp.weight", f"layers.{{i}}.mlp.shared.{name}_proj.weight")
        for name in ("gate", "up", "down")
    ),
    Rule("blk.{i}.ffn_gate_inp_shexp.weight", "layers.{i}.mlp.shared_gate.weight", (OneRow(),)),
)
