"""The description of a model: what it is made of, in the field's words, without a framework.

A description and a set of named arrays *are* the model; executors run them. Differences between layers are data:
``ModelConfig.layers`` holds one ``LayerConfig`` a layer. Everything is frozen, keyword-only and checked once, on
construction, so an executor may believe it.
"""

from pellucid.config.attention import AttentionConfig, QueryScale
from pellucid.config.checks import MAX_LAYERS, MAX_SIZE
from pellucid.config.delta_net import DeltaNetConfig
from pellucid.config.experts import ExpertsConfig
from pellucid.config.latent import LatentAttentionConfig
from pellucid.config.layer import LayerConfig, Mixer, PartNorms
from pellucid.config.mamba import Mamba2Config, MambaConfig
from pellucid.config.mlp import XIELU, Activation, MLPConfig, mlp_shapes
from pellucid.config.model import ModelConfig, weight_shapes, wide_weights
from pellucid.config.norm import NormConfig
from pellucid.config.rope import RopeConfig, RopeScaling
from pellucid.config.short_conv import ShortConvConfig
from pellucid.config.side import SideConfig

__all__ = [
    "MAX_LAYERS",
    "MAX_SIZE",
    "XIELU",
    "Activation",
    "AttentionConfig",
    "DeltaNetConfig",
    "ExpertsConfig",
    "LatentAttentionConfig",
    "LayerConfig",
    "MLPConfig",
    "Mamba2Config",
    "MambaConfig",
    "Mixer",
    "ModelConfig",
    "NormConfig",
    "PartNorms",
    "QueryScale",
    "RopeConfig",
    "RopeScaling",
    "ShortConvConfig",
    "SideConfig",
    "mlp_shapes",
    "weight_shapes",
    "wide_weights",
]
