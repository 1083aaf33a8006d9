"""The two parts of each kind of layer as functions in C: their templates, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable

from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    ShortConvConfig,
)
from pellucid.native.kinds import Kinds, Part
from pellucid.native.layout import Layout
from pellucid.native.parts.attention import attention
from pellucid.native.parts.delta_net import delta_net
from pellucid.native.parts.latent import latent
from pellucid.native.parts.mlp import ACTIVATIONS, SCORES, experts, mlp
from pellucid.native.parts.short_conv import short_conv
from pellucid.native.parts.state_space import mamba, mamba2
from pellucid.native.parts.text import mixer_gives

__all__ = ["ACTIVATIONS", "SCORES", "mixer_gives", "parts"]

MIXERS: dict[type, Callable[[ModelConfig, Layout, Kinds, Part], str]] = {
    AttentionConfig: attention,
    LatentAttentionConfig: latent,
    ShortConvConfig: short_conv,
    DeltaNetConfig: delta_net,
    MambaConfig: mamba,
    Mamba2Config: mamba2,
}


def parts(config: ModelConfig, layout: Layout, kinds: Kinds) -> list[str]:
    """The functions, in the order of a layer's computation."""
    return [
        *(MIXERS[type(part.layer.mixer)](config, layout, kinds, part) for part in kinds.mixers),
        *((experts if part.layer.experts else mlp)(config, layout, part) for part in kinds.mlps),
    ]
