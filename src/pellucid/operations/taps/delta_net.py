"""The taps of gated DeltaNet: q, k and v convolved, what each token writes into the memory and reads there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pellucid.config import DeltaNetConfig, ModelConfig
from pellucid.operations.convolve import Convolve
from pellucid.operations.delta import Read, Write
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Line
from pellucid.operations.product import Product
from pellucid.operations.rates import Decay, Share
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import BY_KV_HEAD, Tap
from pellucid.operations.unit import Unit

PER_HEAD = ("batch", "key", "per_head")  # a number a head
PER_CHANNEL = ("batch", "head", "key", "head_dim")  # a number for each of a key's
VALUES = ("batch", "head", "key", "value_dim")
RESULTS = ("batch", "head", "position", "value_dim")
NARROW = {"decay": ("batch", "key", "rank"), "gate": ("batch", "position", "rank")}
GATED = Line("model.delta_net", "DeltaNet.forward", "gate(config.gate")


class DeltaNetTaps(Part):
    """DeltaNet's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, mixer: DeltaNetConfig) -> None:
        sizes = {
            "head": mixer.num_heads,
            "per_head": mixer.num_heads,
            "kv_head": mixer.num_key_heads,
            "head_dim": mixer.key_head_dim,
            "value_dim": mixer.value_head_dim,
        }
        super().__init__(config, i, sizes)
        self.mixer, self.name = mixer, f"{self.at}.delta_net"

    def taps(self) -> Iterator[Tap]:
        mixer, groups = self.mixer, self.mixer.num_heads // self.mixer.num_key_heads
        by_channel = mixer.decay_by == "channel"
        parts = (("q", mixer.q_dim, BY_KV_HEAD), ("k", mixer.q_dim, BY_KV_HEAD), ("v", mixer.v_dim, VALUES))
        for name, wide, axes in parts:
            projection = self.linear(f"delta_net.{name}_proj", name.upper(), (wide, self.d_model), False)
            cut = replace(projection, head_dim=self.sizes[axes[-1]])
            yield self.tap(name, cut, name, ("n",), "attn_in", axes=axes)
        decays = PER_CHANNEL if by_channel else PER_HEAD
        cut = mixer.key_head_dim if by_channel else None
        yield from self._through("decay", "decay_in", "d", mixer.decay_dim, mixer.decay_rank, cut, decays)
        beta = self.linear("delta_net.beta_proj", "beta", (mixer.num_heads, self.d_model), False)
        yield self.tap("beta_in", beta, "b", ("n",), "attn_in", axes=PER_HEAD)
        for name, wide, axes in parts:
            conv = Convolve(
                name=f"{self.name}.{name}_conv",
                channels=wide,
                width=mixer.conv_width,
                head_dim=self.sizes[axes[-1]],
                silu=True,
            )
            yield self.tap(f"{name}_conv", conv, rf"\tilde {name}", (name,), name, axes=axes)
        for name, scale in (("q", mixer.key_head_dim**-0.5), ("k", 1.0)):
            unit = Unit(scale=scale)
            yield self.tap(f"{name}_norm", unit, rf"\hat {name}", (rf"\tilde {name}",), f"{name}_conv", axes=BY_KV_HEAD)
        decay = Decay(name=self.name, heads=mixer.num_heads, channels=cut)
        yield self.tap("decay", decay, "g", ("d",), "decay_in", axes=decays)
        yield self.tap("beta", Share(scale=mixer.beta_scale), r"\beta", ("b",), "beta_in", axes=PER_HEAD)
        write, symbols = Write(groups=groups, by_channel=by_channel), (r"\hat k", r"\tilde v", "g", r"\beta")
        yield self.tap("write", write, "w", symbols, "k_norm", "v_conv", "decay", "beta", axes=VALUES)
        read, symbols = Read(groups=groups, by_channel=by_channel), (r"\hat q", r"\hat k", "w", "g")
        yield self.tap("z", read, "z", symbols, "q_norm", "k_norm", "write", "decay", axes=RESULTS)
        norm = Norm(name=f"{self.name}.z_norm", width=mixer.value_head_dim, config=mixer.norm)
        yield self.tap("z_norm", norm, r"\hat z", ("z",), "z", axes=RESULTS)
        yield from self._through("gate", "z_gate", "m", mixer.v_dim, mixer.gate_rank, mixer.value_head_dim, RESULTS)
        gated = Product(gate=mixer.gate, code=GATED)
        yield self.tap("z_gated", gated, r"\bar z", ("m", r"\hat z"), "z_gate", "z_norm", axes=RESULTS)
        out = replace(self.linear("delta_net.o_proj", "O", (self.d_model, mixer.v_dim), False), joins=True)
        name, symbol = self.made("attn", "o")
        yield self.tap(name, out, symbol, (r"[\bar z_1; \dots; \bar z_H]",), "z_gated")
        yield from self.normed("attn", "o", "attention_post_norm")

    def _through(
        self, part: str, name: str, symbol: str, out: int, rank: int | None, cut: int | None, axes: tuple[str, ...]
    ) -> Iterator[Tap]:
        """A linear map of the input, or two through a narrow waist."""
        if rank is None:
            whole = self.linear(f"delta_net.{part}_proj", part, (out, self.d_model), False)
            whole = replace(whole, head_dim=cut, owner="delta_net")
            yield self.tap(name, whole, symbol, ("n",), "attn_in", axes=axes)
            return
        self.sizes["rank"] = rank
        down = self.linear(f"delta_net.{part}_a_proj", f"{part} a", (rank, self.d_model), False)
        yield self.tap(
            f"{part}_a", replace(down, owner="delta_net"), f"{symbol}'", ("n",), "attn_in", axes=NARROW[part]
        )
        up = self.linear(f"delta_net.{part}_b_proj", f"{part} b", (out, rank), False)
        up = replace(up, head_dim=cut, owner="delta_net")
        yield self.tap(name, up, symbol, (f"{symbol}'",), f"{part}_a", axes=axes)
