"""Ministral 3 and Devstral 2 (2025): Mistral's shape stretched by yarn; queries grow with their position.

Source: transformers models/ministral3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig, NormConfig, QueryScale
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, rope, rope_to_hf

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    rest, scale = grown(hf, YARN)
    keys = Keys(rest)
    num_layers, head_dim = keys.num_layers("num_hidden_layers"), keys.size("head_dim", 128)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        head_dim=head_dim,
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 262144), default_theta=1e6),
        windows=(keys.get("sliding_window"),) * num_layers,
        attention={"query_scale": scale},
    )


def grown(hf: Mapping[str, Any], default: Mapping[str, Any], *own: str) -> tuple[dict[str, Any], QueryScale]:
    """A config whose rotary settings say how queries grow as well: without that (nor ``own``), and that."""
    settings = hf.get("rope_parameters") or hf.get("rope_scaling") or default
    if not isinstance(settings, Mapping):
        raise ConfigError("rope_parameters must be an object", where="config.json", received=repr(settings)[:80])
    beta, every = settings.get("llama_4_scaling_beta"), settings.get("original_max_position_embeddings")
    if beta is None or every is None:
        raise ConfigError(
            "llama_4_scaling_beta and original_max_position_embeddings say how queries grow",
            where=f"config.json ({hf.get('model_type')})",
            received=repr(settings)[:120],
        )
    own = ("llama_4_scaling_beta", "max_position_embeddings", *own)  # the latter says what config.json says beside it
    rest = {name: value for name, value in settings.items() if name not in own}
    return {**hf, "rope_parameters": rest, "rope_scaling": None}, QueryScale(beta=beta, every=every)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return with_growth(config, llama.base_to_hf(config)) | {
        "architectures": ["Ministral3ForCausalLM"],
        "sliding_window": config.layers[0].mixer.window,
    }


def with_growth(config: ModelConfig, hf: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of ``grown``."""
    attention = config.layers[0].mixer
    written = rope_to_hf(attention.rope)
    parameters = {"rope_type": "default", **(written["rope_scaling"] or {}), "rope_theta": written["rope_theta"]}
    parameters |= {"llama_4_scaling_beta": attention.query_scale.beta}
    parameters |= {"original_max_position_embeddings": attention.query_scale.every}
    rest = {name: value for name, value in hf.items() if name not in ("rope_scaling", "rope_theta")}
    return rest | {"rope_parameters": parameters}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "ministral3",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "rope_parameters": YARN | {"factor": 4.0, "original_max_position_embeddings": 4, "max_position_embeddings": 64},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "window": {"sliding_window": 8},
    "plain_rope": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 4,
            "llama_4_scaling_beta": 0.3,
        }
    },
}
