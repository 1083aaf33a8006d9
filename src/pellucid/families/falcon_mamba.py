"""Falcon Mamba: Mamba in which Δ's numbers, B and C are each normed, by RMS norms without weights.

Source: Zuo et al. 2024 (*Falcon Mamba*) §3; transformers models/falcon_mamba.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import MambaConfig, ModelConfig
from pellucid.families import mamba
from pellucid.families.translation.hf import Keys

HARMLESS = mamba.HARMLESS


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return mamba.build(Keys(hf, HARMLESS), inner_eps=1e-6)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixer = config.layers[0].mixer
    assert isinstance(mixer, MambaConfig)
    assert mixer.inner_norm
    return mamba.to_hf(config) | {
        "architectures": ["FalconMambaForCausalLM"],
        "mixer_rms_eps": mixer.inner_norm.eps,
    }


WEIGHTS = mamba.WEIGHTS
IGNORED = mamba.IGNORED
GGUF = None  # llama.cpp's files of it are of the architecture ``mamba``, which is read there

TINY = mamba.TINY | {"model_type": "falcon_mamba", "tie_word_embeddings": False, "mixer_rms_eps": 1e-5}
VARIANTS: dict[str, dict[str, Any]] = {
    name: mamba.VARIANTS[name] for name in ("biases", "no_conv_bias", "narrow_stream")
} | {"tied": {"tie_word_embeddings": True}}
