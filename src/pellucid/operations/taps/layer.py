"""The taps of one layer: the stream, its mixer, its MLP, and the norms about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pellucid.base.errors import UnsupportedError
from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    ShortConvConfig,
)
from pellucid.operations.copy import Copy
from pellucid.operations.scale import LearnedScale
from pellucid.operations.sum import Sum
from pellucid.operations.taps.attention import AttentionTaps
from pellucid.operations.taps.delta_net import DeltaNetTaps
from pellucid.operations.taps.latent import LatentTaps
from pellucid.operations.taps.mamba import Mamba2Taps, MambaTaps
from pellucid.operations.taps.mlp import MLPTaps
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.short_conv import ShortConvTaps
from pellucid.operations.taps.side import SideTaps
from pellucid.operations.taps.tap import Tap

# The mixer's description → its taps, for (description of the model, number of the layer, the mixer's).
MIXERS: dict[type, Callable[[ModelConfig, int, Any], Part]] = {
    AttentionConfig: AttentionTaps,
    LatentAttentionConfig: LatentTaps,
    ShortConvConfig: ShortConvTaps,
    DeltaNetConfig: DeltaNetTaps,
    MambaConfig: MambaTaps,
    Mamba2Config: Mamba2Taps,
}


class LayerTaps(Part):
    """The layer's; ``stream``: the taps whose sum it reads."""

    def __init__(self, config: ModelConfig, i: int, stream: tuple[str, ...]) -> None:
        super().__init__(config, i, {})
        self.model = config
        self.stream, mixer = stream, self.layer.mixer
        if mixer is not None and type(mixer) not in MIXERS:
            raise UnsupportedError(
                "no operations say what this mixer computes", where=self.at, received=type(mixer).__name__
            )
        self.mixer = None if mixer is None else MIXERS[type(mixer)](config, i, mixer)
        beside = self.layer.beside
        self.beside = None if beside is None else MIXERS[type(beside)](config, i, beside)
        self.mlp = None if self.layer.mlp is None else MLPTaps(config, i, self.layer.mlp)

    def taps(self) -> Iterator[Tap]:
        first = {"embed": "e", "pos_embed": "p", "embed_norm": r"\hat e"}
        symbols = tuple(first.get(source, f"x''_{{{self.i - 1}}}") for source in self.stream)
        yield self.tap("resid_pre", Sum() if len(self.stream) > 1 else Copy(), "x", symbols, *self.stream)
        x, source = "x", "resid_pre"
        if self.mixer is not None:
            yield self.read("attn_in", "n", x, source, "attention_norm")
            yield from self.mixer.taps()
            added, made_by = (x, "o"), (source, "attn_out")
            if self.beside is not None:
                yield from self.beside.taps()
                added, made_by = (*added, "o'"), (*made_by, "beside_out")
            if self.layer.parallel and self.mlp is not None:
                yield from self._parallel(self.mlp)
                return
            made, after = ("resid_post", "x''") if self.mlp is None else ("resid_mid", "x'")
            yield self.add(made, after, added, made_by, "attention_sum_norm")
            x, source = after, made
        if self.mlp is not None:
            yield self.read("mlp_in", "n'", x, source, "mlp_norm")
            yield from self.mlp.taps()
            made = "resid_mlp" if self.layer.side else "resid_unscaled" if self.layer.out_scale else "resid_post"
            yield self.add(
                made, "x''" if made == "resid_post" else "x'''", (x, "y"), (source, "mlp_out"), "mlp_sum_norm"
            )
            if self.layer.side:
                yield from SideTaps(self.model, self.i, self.layer.side).taps()
            if self.layer.out_scale:
                scale = LearnedScale(f"{self.at}.out_scale")
                yield self.tap("resid_post", scale, "x''", (r"\hat x",), "resid_unscaled")

    def _parallel(self, mlp: MLPTaps) -> Iterator[Tap]:
        """An MLP beside attention: it reads the stream as it came in, by its own norm or by attention's."""
        if self.layer.mlp_norms.before or not self.layer.mixer_norms.before:
            yield self.read("mlp_in", "n'", "x", "resid_pre", "mlp_norm")
        else:
            yield self.tap("mlp_in", Copy(), "n'", ("n",), "attn_in")
        yield from mlp.taps()
        yield self.tap("resid_post", Sum(parallel=True), "x''", ("x", "o", "y"), "resid_pre", "attn_out", "mlp_out")
