"""OLMo 3: OLMo 2 with a window in three of four layers, and a scaling of positions in the others alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, RopeConfig
from pellucid.families import gemma3, llama, olmo2
from pellucid.families.translation.hf import Keys, rope, rope_to_hf


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    kinds, window = gemma3.layer_types(keys, every=4), keys.size("sliding_window", 4096)
    near, far = _ropes(keys)
    return olmo2.build(
        keys,
        ropes=[near if kind == "sliding_attention" else far for kind in kinds],
        windows=[window if kind == "sliding_attention" else None for kind in kinds],
    )


def _ropes(keys: Keys) -> tuple[RopeConfig, RopeConfig]:
    """Of layers with a window, and of those that see all: each its ``rope_parameters``, or one θ and, for those that
    see all, ``rope_scaling``.
    """
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    theta, context_len = keys.get("rope_theta", 5e5), keys.size("max_position_embeddings", 2048)
    scaling, by_kind = keys.get("rope_scaling"), keys.part("rope_parameters")
    kinds = ("sliding_attention", "full_attention")
    parts = (None, scaling) if by_kind is None else (by_kind.get(kinds[0]), by_kind.get(kinds[1]) or scaling)
    near, far = (
        rope(Keys({"rope_theta": theta, "rope_parameters": part}, where=keys.where), head_dim, context_len)
        for part in parts
    )
    return near, far


def to_hf(config: ModelConfig) -> dict[str, Any]:
    by_kind = {"sliding_attention" if layer.mixer.window else "full_attention": layer.mixer for layer in config.layers}
    ropes = {kind: rope_to_hf(mixer.rope) for kind, mixer in by_kind.items() if mixer.rope}
    hf = {name: value for name, value in olmo2.to_hf(config).items() if name not in ("rope_theta", "rope_scaling")}
    return hf | {
        "architectures": ["Olmo3ForCausalLM"],
        "sliding_window": max(mixer.window or 1 for mixer in by_kind.values()),
        "layer_types": ["sliding_attention" if layer.mixer.window else "full_attention" for layer in config.layers],
        "rope_parameters": {
            kind: (written["rope_scaling"] or {"rope_type": "default"}) | {"rope_theta": written["rope_theta"]}
            for kind, written in ropes.items()
        },
    }


WEIGHTS = olmo2.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = olmo2.TINY | {
    "model_type": "olmo3",
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 8,
    "rope_scaling": llama.VARIANTS["yarn"]["rope_scaling"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_scaling": {"rope_scaling": None},
    "all_windows": {"layer_types": ["sliding_attention", "sliding_attention"]},
}
