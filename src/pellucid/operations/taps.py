"""Every tap: what it is, its equation, its axes, what it is computed from, and when a model has it.

A tap is a value of the forward pass that has a name. ``taps_of(config)`` lists those of one model in the order of
computation, under their paths (``layers.3.pattern``), each with the operation that makes it. This is the one place that
knows how a layer is put together: where its norms stand, and what runs beside what. Names follow TransformerLens.
Symbols: e the embedding, p the position's vector; in a layer x, x', x'' the residual stream before, between and after
its two parts, n and n' what they read, q, k, v, s scores, a the attention pattern, z, o what attention adds, g and u
before the activation, f after it, y what the MLP adds; in a mixture of experts r the router's logits, w the weights of
the experts; h the final state, ℓ logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pellucid.base.errors import UnsupportedError
from pellucid.config import AttentionConfig, ExpertsConfig, ModelConfig, NormConfig
from pellucid.operations.activation import Activation
from pellucid.operations.cell import Index, Look, Operands, Recorded
from pellucid.operations.copy import Copy
from pellucid.operations.experts import Experts
from pellucid.operations.linear import Linear
from pellucid.operations.lookup import Lookup
from pellucid.operations.mix import Mix
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Operation, Weight
from pellucid.operations.position import Position
from pellucid.operations.rotate import Rotate
from pellucid.operations.route import Route
from pellucid.operations.scale import Scale
from pellucid.operations.scores import Scores
from pellucid.operations.softmax import Softmax
from pellucid.operations.sum import Sum
from pellucid.operations.words import WORDS, Words

STREAM = ("batch", "position", "d_model")
BY_HEAD = ("batch", "head", "position", "head_dim")
BY_KV_HEAD = ("batch", "kv_head", "key", "head_dim")
BY_PAIR = ("batch", "head", "position", "key")
BY_NEURON = ("batch", "position", "neuron")
BY_EXPERT = ("batch", "position", "expert")
BY_TOKEN = ("batch", "position", "token")

OPERATIONS: tuple[type[Operation], ...] = (
    Lookup, Position, Copy, Sum, Norm, Linear, Rotate, Scores, Softmax, Mix, Activation, Route, Experts
)  # fmt: skip

# Fields of the description that say which operations there are and in what order; the rest are the operations' own.
READS = (
    *(f"ModelConfig.{name}" for name in ("layers", "position", "final_norm")),
    *(
        f"LayerConfig.{name}"
        for name in ("mixer", "mlp", "experts", "mixer_norms", "mlp_norms", "parallel", "residual_scale")
    ),
    *(f"PartNorms.{name}" for name in ("before", "after", "sum")),
)


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One tap of one model, and what computes it."""

    path: str  # layers.3.pattern
    name: str  # pattern
    layer: int | None
    operation: Operation
    axes: tuple[str, ...]
    widths: tuple[tuple[str, int], ...]  # sizes of the axes that the config fixes
    inputs: tuple[str, ...]  # paths
    latex: str

    @property
    def kind(self) -> str:
        """The operation's name: the same few make up every model."""
        return self.operation.kind

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.operation.weights

    @property
    def words(self) -> Words:
        return WORDS[self.name]

    @property
    def inside_the_kernel(self) -> bool:
        """Whether a fused kernel computes it on the way and never has it as a whole: scores and pattern."""
        return "position" in self.axes and "key" in self.axes

    def cell(self, run: Recorded, at: Index, value: float, place: int, max_terms: int = 12) -> Operands:
        """Why one cell of a run has its value; ``place`` is its position in the text."""
        look = Look(
            run=run,
            path=self.path,
            kind=self.kind,
            inputs=self.inputs,
            at=at,
            value=value,
            place=place,
            max_terms=max_terms,
        )
        return self.operation.cell(look)

    def shape(self, batch: int, positions: int, keys: int) -> tuple[int, ...]:
        """Sizes of the axes for a batch of ``keys`` tokens of which ``positions`` are looked at."""
        sizes = {"batch": batch, "position": positions, "key": keys, **dict(self.widths)}
        return tuple(sizes[axis] for axis in self.axes)


def taps_of(config: ModelConfig) -> dict[str, Tap]:
    """Path → tap, in the order of computation."""
    return {tap.path: tap for tap in _taps(config)}


def _taps(config: ModelConfig) -> Iterator[Tap]:
    d = config.d_model
    sizes = {"d_model": d, "token": config.vocab_size}

    def top(name: str, operation: Operation, latex: str, *inputs: str, axes: tuple[str, ...] = STREAM) -> Tap:
        widths = tuple((axis, sizes[axis]) for axis in axes if axis in sizes)
        return Tap(
            path=name,
            name=name,
            layer=None,
            operation=operation,
            axes=axes,
            widths=widths,
            inputs=inputs,
            latex=latex,
        )

    embed = Lookup(name="embed", rows=config.vocab_size, width=d, scale=config.embedding_scale)
    yield top("embed", embed, embed.equation("e"))
    stream: tuple[str, ...] = ("embed",)
    if config.position != "none":
        learned = Lookup(name="pos_embed", rows=config.context_len, width=d, by="position_ids")
        places = learned if config.position == "learned" else Position(width=d)
        yield top("pos_embed", places, places.equation("p"))
        stream = ("embed", "pos_embed")
    for i in range(config.num_layers):
        yield from _Layer(config, i, stream).taps()
        stream = (f"layers.{i}.resid_post",)
    final = Copy() if config.final_norm is None else Norm(name="final_norm", width=d, config=config.final_norm)
    yield top("final", final, final.equation("h", "x''"), *stream)
    head = Linear(
        name="embed" if config.tie_embeddings else "lm_head",
        shape=(config.vocab_size, d),
        matrix="E" if config.tie_embeddings else "W_U",
        bias=config.head_bias,
        scale=config.logit_scale,
        cap=config.logit_softcap,
    )
    yield top("logits", head, head.equation(r"\ell", "h"), "final", axes=BY_TOKEN)


class _Layer:
    """The taps of one layer."""

    def __init__(self, config: ModelConfig, i: int, stream: tuple[str, ...]) -> None:
        self.layer, self.d_model, self.i, self.at, self.stream = (
            config.layers[i],
            config.d_model,
            i,
            f"layers.{i}",
            stream,
        )
        attention = self.layer.mixer
        if not isinstance(attention, AttentionConfig):
            raise UnsupportedError(
                "no operations say what this mixer computes", where=self.at, received=type(attention).__name__
            )
        self.sizes = {
            "d_model": config.d_model,
            "head": attention.num_heads,
            "kv_head": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "neuron": self.layer.mlp.d_ff,
            "expert": self.layer.experts.num_experts if self.layer.experts else 0,
        }

    def taps(self) -> Iterator[Tap]:
        symbols = {1: (f"x''_{{{self.i - 1}}}" if self.i else "e",), 2: ("e", "p")}[len(self.stream)]
        yield self._tap("resid_pre", Sum() if len(self.stream) > 1 else Copy(), "x", symbols, *self.stream)
        yield self._read("attn_in", "n", "x", "resid_pre", "attention_norm")
        yield from self._attend()
        if self.layer.parallel:
            yield from self._parallel()
            return
        yield self._add("resid_mid", "x'", ("x", "o"), ("resid_pre", "attn_out"), "attention_sum_norm")
        yield self._read("mlp_in", "n'", "x'", "resid_mid", "mlp_norm")
        yield from self._mlp() if self.layer.experts is None else self._experts(self.layer.experts)
        yield self._add("resid_post", "x''", ("x'", "y"), ("resid_mid", "mlp_out"), "mlp_sum_norm")

    def _parallel(self) -> Iterator[Tap]:
        """An MLP beside attention: it reads the stream as it came in, by its own norm or by attention's."""
        if self.layer.mlp_norms.before or not self.layer.mixer_norms.before:
            yield self._read("mlp_in", "n'", "x", "resid_pre", "mlp_norm")
        else:
            yield self._tap("mlp_in", Copy(), "n'", ("n",), "attn_in")
        yield from self._mlp() if self.layer.experts is None else self._experts(self.layer.experts)
        yield self._tap("resid_post", Sum(parallel=True), "x''", ("x", "o", "y"), "resid_pre", "attn_out", "mlp_out")

    def _attend(self) -> Iterator[Tap]:
        attention = self.layer.mixer
        wide, narrow = attention.q_dim, attention.kv_dim
        for name, out, axes in (("q", wide, BY_HEAD), ("k", narrow, BY_KV_HEAD), ("v", narrow, BY_KV_HEAD)):
            projection = self._linear(f"attention.{name}_proj", name.upper(), (out, self.d_model), attention.qkv_bias)
            cut = replace(projection, head_dim=attention.head_dim)
            yield self._tap(name, cut, name, ("n",), "attn_in", axes=axes)
        last = {"q": "q", "k": "k"}
        steps = (self._qk_norms(last), self._rotations(last))
        for step in steps if attention.qk_norm_at == "before" else reversed(steps):
            yield from step
        groups = attention.num_heads // attention.num_kv_heads
        scores = Scores(
            scale=attention.softmax_scale, groups=groups, softcap=attention.softcap, window=attention.window
        )
        yield self._tap("scores", scores, "s", ("q", "k"), last["q"], last["k"], axes=BY_PAIR)
        yield self._tap("pattern", Softmax(), "a", ("s",), "scores", axes=BY_PAIR)
        yield self._tap("z", Mix(groups=groups), "z", ("a", "v"), "pattern", "v", axes=BY_HEAD)
        out = replace(
            self._linear("attention.o_proj", "O", (self.d_model, attention.q_dim), attention.o_bias), joins=True
        )
        name, symbol = self._made("attn", "o")
        yield self._tap(name, out, symbol, (r"[z_1; \dots; z_H]",), "z")
        yield from self._normed("attn", "o", "attention_post_norm")

    def _qk_norms(self, last: dict[str, str]) -> Iterator[Tap]:
        """``last``: the taps of queries and keys so far."""
        attention = self.layer.mixer
        if attention.qk_norm is None:
            return
        for name, heads, axes in (("q", attention.num_heads, BY_HEAD), ("k", attention.num_kv_heads, BY_KV_HEAD)):
            over_all = attention.qk_norm_over == "all"
            norm = Norm(
                name=f"{self.at}.attention.{name}_norm",
                width=attention.head_dim * (heads if over_all else 1),
                config=attention.qk_norm,
                heads=heads if over_all else None,
            )
            yield self._tap(f"{name}_norm", norm, rf"\hat {name}", (name,), last[name], axes=axes)
            last[name] = f"{name}_norm"

    def _rotations(self, last: dict[str, str]) -> Iterator[Tap]:
        if (rope := self.layer.mixer.rope) is None:
            return
        for name, axes in (("q", BY_HEAD), ("k", BY_KV_HEAD)):
            yield self._tap(f"{name}_rot", Rotate(rope=rope), "", (name,), last[name], axes=axes)
            last[name] = f"{name}_rot"

    def _mlp(self) -> Iterator[Tap]:
        mlp, wide = self.layer.mlp, (self.layer.mlp.d_ff, self.d_model)
        first = "gate" if mlp.gated else "up"
        act = Activation(function=mlp.activation, gated=mlp.gated)
        pre = self._linear(f"mlp.{first}_proj", first, wide, mlp.bias)
        yield self._tap("mlp_pre", pre, "g", ("n'",), "mlp_in", axes=BY_NEURON)
        if mlp.gated:
            up = self._linear("mlp.up_proj", "up", wide, mlp.bias)
            yield self._tap("mlp_up", up, "u", ("n'",), "mlp_in", axes=BY_NEURON)
            yield self._tap("mlp_act", act, "f", ("g", "u"), "mlp_pre", "mlp_up", axes=BY_NEURON)
        else:
            yield self._tap("mlp_act", act, "f", ("g",), "mlp_pre", axes=BY_NEURON)
        name, symbol = self._made("mlp", "y")
        down = self._linear("mlp.down_proj", "down", (self.d_model, mlp.d_ff), mlp.bias)
        yield self._tap(name, down, symbol, ("f",), "mlp_act")
        yield from self._normed("mlp", "y", "mlp_post_norm")

    def _experts(self, experts: ExpertsConfig) -> Iterator[Tap]:
        """A mixture of experts: what the router says, what each expert counts for, and their sum. Experts' own neurons
        have no tap.
        """
        router = self._linear("mlp.router", "router", (experts.num_experts, self.d_model), False)
        yield self._tap("router_logits", router, "r", ("n'",), "mlp_in", axes=BY_EXPERT)
        yield self._tap("experts", Route(config=experts), "w", ("r",), "router_logits", axes=BY_EXPERT)
        name, symbol = self._made("mlp", "y")
        mixed = Experts(name=f"{self.at}.mlp", d_model=self.d_model, mlp=self.layer.mlp, config=experts)
        yield self._tap(name, mixed, symbol, ("n'", "w"), "mlp_in", "experts")
        yield from self._normed("mlp", "y", "mlp_post_norm")

    def _made(self, part: str, symbol: str) -> tuple[str, str]:
        """Name and symbol of what a part makes: what it adds, or what is normed or scaled before it is added."""
        norms = self.layer.mixer_norms if part == "attn" else self.layer.mlp_norms
        return (
            (f"{part}_proj", rf"\hat {symbol}")
            if norms.after or self.layer.residual_scale != 1
            else (f"{part}_out", symbol)
        )

    def _normed(self, part: str, symbol: str, norm: str) -> Iterator[Tap]:
        """What a part adds, where a norm stands after it, or it is scaled."""
        if (scale := self.layer.residual_scale) != 1:
            name, made = self._made(part, symbol)
            yield self._tap(f"{part}_out", Scale(scale), symbol, (made,), name)
        elif (config := self.layer.norms.get(norm)) is not None:
            name, made = self._made(part, symbol)
            yield self._tap(f"{part}_out", self._norm(norm, config), symbol, (made,), name)

    def _read(self, name: str, symbol: str, x: str, source: str, norm: str) -> Tap:
        """What a part reads: the stream, normed first where a norm stands before it."""
        config = self.layer.norms.get(norm)
        return self._tap(name, Copy() if config is None else self._norm(norm, config), symbol, (x,), source)

    def _add(self, name: str, symbol: str, added: tuple[str, str], sources: tuple[str, str], norm: str) -> Tap:
        """The stream after a part, normed where a norm stands over the sum."""
        config = self.layer.norms.get(norm)
        return self._tap(name, Sum() if config is None else self._norm(norm, config), symbol, added, *sources)

    def _norm(self, name: str, config: NormConfig) -> Norm:
        return Norm(name=f"{self.at}.{name}", width=self.d_model, config=config)

    def _linear(self, name: str, label: str, shape: tuple[int, int], bias: bool) -> Linear:
        label = label if len(label) == 1 else rf"\text{{{label}}}"
        return Linear(name=f"{self.at}.{name}", shape=shape, matrix=f"W_{{{label}}}", bias=bias)

    def _tap(
        self,
        name: str,
        operation: Operation,
        symbol: str,
        symbols: tuple[str, ...],
        *sources: str,
        axes: tuple[str, ...] = STREAM,
    ) -> Tap:
        return Tap(
            path=f"{self.at}.{name}",
            name=name,
            layer=self.i,
            operation=operation,
            axes=axes,
            widths=tuple((axis, self.sizes[axis]) for axis in axes if axis in self.sizes),
            inputs=sources if name == "resid_pre" else tuple(f"{self.at}.{source}" for source in sources),
            latex=operation.equation(symbol, *symbols),
        )
