"""The taps of state-space mixers: what goes into the state, how far each token moves it, and what is read off it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pellucid.config import Mamba2Config, MambaConfig, ModelConfig
from pellucid.operations.activation import Activation
from pellucid.operations.convolve import Convolve
from pellucid.operations.linear import Linear
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Line
from pellucid.operations.product import Product
from pellucid.operations.scale import Scale
from pellucid.operations.scan import Scan
from pellucid.operations.step_size import StepSize
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import BY_HEAD, CHANNELS, CHANNELS_WHOLE, Tap

STEPS = ("batch", "key", "ssm_head")
RANK = ("batch", "key", "rank")
STATE = ("batch", "key", "state")


class StateSpaceTaps(Part):
    """What both kinds have. ``mixer``: its name in the weights' names; ``owner``: the module that runs it."""

    owner: str
    mixer: Any

    def map(self, part: str, out: int, into: int, bias: bool, label: str, scale: float = 1.0) -> Linear:
        made = self.linear(f"{self.mixer.name}.{part}_proj", label, (out, into), bias)
        return replace(made, scale=scale)

    def conv(self, part: str, channels: int, symbol: str) -> Tap:
        name, mixer = f"{self.at}.{self.mixer.name}.{part}_conv", self.mixer
        conv = Convolve(name=name, channels=channels, width=mixer.width, bias=mixer.conv_bias)
        return self.tap(f"ssm_{part}_conv", conv, rf"\tilde {symbol}", (symbol,), f"ssm_{part}", axes=self.wide(part))

    def act(self, part: str, name: str, made: str, symbol: str) -> Tap:
        code = Line("model.mamba", "activated", "return")
        act = Activation(function=self.mixer.activation, gated=False, code=code)
        return self.tap(name, act, made, (rf"\tilde {symbol}",), f"ssm_{part}_conv", axes=self.wide(part))

    def wide(self, part: str) -> tuple[str, ...]:
        return CHANNELS_WHOLE if part == "u" else STATE

    def step_size(self, axes: tuple[str, ...], size: int, **bounds: Any) -> Tap:
        made = StepSize(name=f"{self.at}.{self.mixer.name}.dt_bias", size=size, **bounds)
        return self.tap("ssm_dt", made, r"\Delta", ("r",), "ssm_dt_in", axes=axes)

    def out(self, source: str, symbol: str, *, joins: bool, scale: float = 1.0, bias: bool = False) -> Iterator[Tap]:
        name, made = ("beside_out", "o'") if self.layer.beside is self.mixer else self.made("attn", "o")
        out = self.linear(f"{self.mixer.name}.o_proj", "O", (self.d_model, self.mixer.channels), bias)
        yield self.tap(name, replace(out, joins=joins, scale=scale), made, (symbol,), source)
        if self.layer.beside is not self.mixer:
            yield from self.normed("attn", "o", "attention_post_norm")


class MambaTaps(StateSpaceTaps):
    """Mamba's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, mixer: MambaConfig) -> None:
        sizes = {"channel": mixer.channels, "state": mixer.state_size, "rank": mixer.dt_rank}
        super().__init__(config, i, sizes)
        self.mixer: MambaConfig = mixer

    def taps(self) -> Iterator[Tap]:
        mixer, channels = self.mixer, self.mixer.channels
        for part, axes in (("z", CHANNELS), ("u", CHANNELS_WHOLE)):
            projection = self.map(part, channels, self.d_model, mixer.bias, part)
            yield self.tap(f"ssm_{part}", projection, part, ("n",), "attn_in", axes=axes)
        yield self.conv("u", channels, "u")
        yield self.act("u", "ssm_x", "x", "u")
        inner = {}
        for part, size, axes, symbol in (
            ("dt_low", mixer.dt_rank, RANK, r"\rho"),
            ("b", mixer.state_size, STATE, "B"),
            ("c", mixer.state_size, STATE, "C"),
        ):
            inner[part] = name = f"ssm_{part}"
            label = {"dt_low": "low"}.get(part, symbol)
            yield self.tap(name, self.map(part, size, channels, False, label), symbol, ("x",), "ssm_x", axes=axes)
            if mixer.inner_norm is not None:
                inner[part] = f"{name}_norm"
                norm = Norm(name=f"{self.at}.ssm.{part}_norm", width=size, config=mixer.inner_norm)
                yield self.tap(f"{name}_norm", norm, rf"\hat {symbol}", (symbol,), name, axes=axes)
        rates = self.map("dt", channels, mixer.dt_rank, False, r"\Delta")
        yield self.tap("ssm_dt_in", rates, "r", (r"\rho",), inner["dt_low"], axes=CHANNELS_WHOLE)
        yield self.step_size(CHANNELS_WHOLE, channels)
        scan = Scan(name=f"{self.at}.ssm", rows=channels, state_size=mixer.state_size)
        sources = ("ssm_x", "ssm_dt", inner["b"], inner["c"])
        yield self.tap("ssm_y", scan, "y", ("x", r"\Delta", "B", "C"), *sources, axes=CHANNELS)
        gate = Product(gate="silu", code=Line("model.mamba", "Mamba.forward", 'activated("silu"'))
        yield self.tap("ssm_gated", gate, "g", ("z", "y"), "ssm_z", "ssm_y", axes=CHANNELS)
        yield from self.out("ssm_gated", "g", joins=False, bias=mixer.bias)


class Mamba2Taps(StateSpaceTaps):
    """Mamba-2's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, mixer: Mamba2Config) -> None:
        sizes = {"head": mixer.num_heads, "ssm_head": mixer.num_heads, "head_dim": mixer.head_dim}
        super().__init__(config, i, sizes | {"channel": mixer.channels, "state": mixer.group_size})
        self.mixer: Mamba2Config = mixer

    def taps(self) -> Iterator[Tap]:
        mixer, read = self.mixer, "attn_in"
        if mixer.in_scale != 1:
            yield self.tap(
                "ssm_in", Scale(mixer.in_scale, code=self._line("* self.config.in_scale")), "n", ("n",), read
            )
            read = "ssm_in"
        axes = {"z": BY_HEAD, "u": CHANNELS_WHOLE, "b": STATE, "c": STATE, "dt": STEPS}
        symbols = {"z": "z", "u": "u", "b": "b", "c": "c", "dt": "r"}
        for part, size in mixer.projected.items():
            label = r"\Delta" if part == "dt" else part
            projection = self.map(part, size, self.d_model, mixer.bias, label, mixer.scale_of(part))
            if part == "z":
                projection = replace(projection, head_dim=mixer.head_dim)
            name = "ssm_dt_in" if part == "dt" else f"ssm_{part}"
            yield self.tap(name, projection, symbols[part], ("n",), read, axes=axes[part])
        yield self.step_size(STEPS, mixer.num_heads, low=mixer.dt_min, high=mixer.dt_max)
        for part, size in mixer.convolved.items():
            yield self.conv(part, size, part)
            name, made = ("ssm_x", "x") if part == "u" else (f"ssm_{part}_act", part.upper())
            yield self.act(part, name, made, part)
        scan = Scan(
            name=f"{self.at}.ssd",
            rows=mixer.num_heads,
            state_size=mixer.state_size,
            head_dim=mixer.head_dim,
            groups=mixer.num_groups,
        )
        sources = ("ssm_x", "ssm_dt", "ssm_b_act", "ssm_c_act")
        yield self.tap("ssm_y", scan, "y", ("x", r"\Delta", "B", "C"), *sources, axes=BY_HEAD)
        last, symbol = "ssm_y", "y"
        steps = (self._gate, self._norm)
        for step in steps if mixer.norm_at == "after" else reversed(steps):
            for tap in step(last, symbol):
                yield tap
                last, symbol = tap.name, {"ssm_gated": "g", "ssm_norm": r"\hat y"}[tap.name]
        yield from self.out(last, symbol, joins=True, scale=mixer.out_scale, bias=mixer.o_bias)

    def _gate(self, last: str, symbol: str) -> Iterator[Tap]:
        gate = Product(gate="silu", code=self._line('activated("silu"'))
        yield self.tap("ssm_gated", gate, "g", ("z", symbol), "ssm_z", last, axes=BY_HEAD)

    def _norm(self, last: str, symbol: str) -> Iterator[Tap]:
        if (config := self.mixer.norm) is None:
            return
        name, mixer = f"{self.at}.ssd.norm", self.mixer
        norm = Norm(name=name, width=mixer.channels, config=config, heads=mixer.num_heads)
        yield self.tap("ssm_norm", norm, r"\hat y", (symbol,), last, axes=BY_HEAD)

    @staticmethod
    def _line(part: str) -> Line:
        return Line("model.mamba", "Mamba2.forward", part)
