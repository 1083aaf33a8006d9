"""What the taps of a layer's parts are made with: names, symbols and norms, alike for every mixer and MLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pellucid.config import ModelConfig, NormConfig
from pellucid.operations.copy import Copy
from pellucid.operations.linear import Linear
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Operation
from pellucid.operations.scale import Scale
from pellucid.operations.sum import Sum
from pellucid.operations.taps.tap import STREAM, Tap, Whole


class Part:
    """A part of layer ``i``. ``sizes``: axis → its size, where the description fixes it."""

    def __init__(self, config: ModelConfig, i: int, sizes: Mapping[str, int]) -> None:
        self.layer, self.d_model, self.i, self.at = config.layers[i], config.d_model, i, f"layers.{i}"
        self.sizes = {"d_model": config.d_model, **sizes}

    def taps(self) -> Iterator[Tap]:
        """In the order of computation."""
        raise NotImplementedError

    def made(self, part: str, symbol: str) -> tuple[str, str]:
        """Name and symbol of what a part makes: what it adds, or what is normed or scaled before it is added."""
        norms = self.layer.mixer_norms if part == "attn" else self.layer.mlp_norms
        return (
            (f"{part}_proj", rf"\hat {symbol}")
            if norms.after or self.layer.residual_scale != 1
            else (f"{part}_out", symbol)
        )

    def normed(self, part: str, symbol: str, norm: str) -> Iterator[Tap]:
        """What a part adds, where a norm stands after it, or it is scaled."""
        if (scale := self.layer.residual_scale) != 1:
            name, made = self.made(part, symbol)
            yield self.tap(f"{part}_out", Scale(scale), symbol, (made,), name)
        elif (config := self.layer.norms.get(norm)) is not None:
            name, made = self.made(part, symbol)
            yield self.tap(f"{part}_out", self.norm(norm, config), symbol, (made,), name)

    def read(self, name: str, symbol: str, x: str, source: str, norm: str) -> Tap:
        """What a part reads: the stream, normed first where a norm stands before it."""
        config = self.layer.norms.get(norm)
        return self.tap(name, Copy() if config is None else self.norm(norm, config), symbol, (x,), source)

    def add(self, name: str, symbol: str, added: tuple[str, ...], sources: tuple[str, ...], norm: str) -> Tap:
        """The stream after a part, normed where a norm stands over the sum."""
        config = self.layer.norms.get(norm)
        mixed = norm == "attention_sum_norm"
        return self.tap(name, Sum(mixed=mixed) if config is None else self.norm(norm, config), symbol, added, *sources)

    def norm(self, name: str, config: NormConfig) -> Norm:
        return Norm(name=f"{self.at}.{name}", width=self.d_model, config=config)

    def linear(self, name: str, label: str, shape: tuple[int, int], bias: bool) -> Linear:
        label = label if len(label) == 1 else rf"\text{{{label}}}"
        return Linear(name=f"{self.at}.{name}", shape=shape, matrix=f"W_{{{label}}}", bias=bias)

    def path(self, source: str) -> str:
        """Of a tap of this layer, by its name; of any other, as it stands."""
        return source if isinstance(source, Whole) else f"{self.at}.{source}"

    def tap(
        self,
        name: str,
        operation: Operation,
        symbol: str,
        symbols: tuple[str, ...],
        *sources: str,
        axes: tuple[str, ...] = STREAM,
        **widths: int,
    ) -> Tap:
        """``widths``: sizes of axes that this tap has otherwise than the part."""
        sizes = self.sizes | widths
        return Tap(
            path=f"{self.at}.{name}",
            name=name,
            layer=self.i,
            operation=operation,
            axes=axes,
            widths=tuple((axis, sizes[axis]) for axis in axes if axis in sizes),
            inputs=sources if name == "resid_pre" else tuple(self.path(source) for source in sources),
            latex=operation.equation(symbol, *symbols),
            attends=self.layer.attends is not None,
        )
