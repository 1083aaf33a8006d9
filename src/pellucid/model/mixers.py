"""The kinds of mixers: which module runs a layer's ``mixer``. What each keeps of a sequence: see ``cache.STATES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    Mixer,
    ShortConvConfig,
)
from pellucid.model.attention import Attention
from pellucid.model.delta_net import DeltaNet
from pellucid.model.latent import LatentAttention
from pellucid.model.mamba import Mamba, Mamba2
from pellucid.model.short_conv import ShortConv

# The mixer's description → a module for (d_model, description, number of the layer), called with (x, ctx).
#
# ``x`` (B, T, D) may hold several requests' tokens end to end: ``ctx.by_request`` takes them apart where tokens meet. A
# kind that does not attend lets nothing come from padding (``texts.without_padding``) and keeps the texts of a packed
# row apart (``texts.by_text``).
MIXERS: dict[type, Callable[[int, Any, int], nn.Module]] = {
    AttentionConfig: Attention,
    LatentAttentionConfig: LatentAttention,
    ShortConvConfig: ShortConv,
    DeltaNetConfig: DeltaNet,
    MambaConfig: Mamba,
    Mamba2Config: Mamba2,
}


def make_mixer(d_model: int, config: Mixer, layer: int) -> nn.Module:
    return MIXERS[type(config)](d_model, config, layer)
