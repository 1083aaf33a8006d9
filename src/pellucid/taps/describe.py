"""Every tap: what it is, its equation, its axes, what it is computed from, and when a model has it.

A tap is a value of the forward pass that has a name. ``taps_of(config)`` lists those of one model in the order of
computation, under their paths (``layers.3.pattern``). Names follow TransformerLens. Symbols: e the embedding, p the
position's vector; in a layer x, x', x'' the residual stream before, between and after its two parts, n and n' what they
read, q, k, v, s scores, a the attention pattern, z, o what attention adds, g and u before the activation, f after it, y
what the MLP adds; in a mixture of experts r the router's logits, w the weights of the experts; h the final state, ℓ
logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pellucid.config import ExpertsConfig, ModelConfig, NormConfig, RopeConfig, mlp_shapes
from pellucid.taps.words import WORDS, Words

STREAM = ("batch", "position", "d_model")
BY_HEAD = ("batch", "head", "position", "head_dim")
BY_KV_HEAD = ("batch", "kv_head", "key", "head_dim")
BY_PAIR = ("batch", "head", "position", "key")
BY_NEURON = ("batch", "position", "neuron")
BY_EXPERT = ("batch", "position", "expert")
BY_TOKEN = ("batch", "position", "token")


class Weight(NamedTuple):
    """A weight that takes part in a step."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One tap of one model. ``kind`` says how it is computed: the same few operations make up every model."""

    path: str  # layers.3.pattern
    name: str  # pattern
    layer: int | None
    kind: str  # lookup, position, sum, copy, norm, linear, rotate, scores, softmax, mix, activation, route, experts
    axes: tuple[str, ...]
    widths: tuple[tuple[str, int], ...]  # sizes of the axes that the config fixes
    inputs: tuple[str, ...]  # paths; a norm of two inputs is the norm of their sum
    weights: tuple[Weight, ...]
    latex: str

    @property
    def words(self) -> Words:
        return WORDS[self.name]

    def shape(self, batch: int, positions: int, keys: int) -> tuple[int, ...]:
        """Sizes of the axes for a batch of ``keys`` tokens of which ``positions`` are looked at."""
        sizes = {"batch": batch, "position": positions, "key": keys, **dict(self.widths)}
        return tuple(sizes[axis] for axis in self.axes)


def taps_of(config: ModelConfig) -> dict[str, Tap]:
    """Path → tap, in the order of computation."""
    return {tap.path: tap for tap in _taps(config)}


def _taps(config: ModelConfig) -> Iterator[Tap]:
    d = (("d_model", config.d_model),)
    table = Weight("embed.weight", (config.vocab_size, config.d_model))

    def top(
        name: str,
        kind: str,
        latex: str,
        inputs: tuple[str, ...] = (),
        weights: tuple[Weight, ...] = (),
        axes=STREAM,
        widths=d,
    ) -> Tap:
        return Tap(
            path=name,
            name=name,
            layer=None,
            kind=kind,
            axes=axes,
            widths=widths,
            inputs=inputs,
            weights=weights,
            latex=latex,
        )

    scale = "" if config.embedding_scale == 1.0 else rf"{config.embedding_scale:.4g} \cdot "
    yield top("embed", "lookup", rf"e_t = {scale}E_{{w_t}}", weights=(table,))
    stream: tuple[str, ...] = ("embed",)
    if config.position != "none":
        if config.position == "learned":
            yield top(
                "pos_embed",
                "lookup",
                "p_t = P_t",
                weights=(Weight("pos_embed.weight", (config.context_len, config.d_model)),),
            )
        else:
            turn = rf"\frac{{t}}{{10000^{{2i/{config.d_model}}}}}"
            yield top("pos_embed", "position", rf"p_{{t,2i}} = \sin {turn}, \quad p_{{t,2i+1}} = \cos {turn}")
        stream = ("embed", "pos_embed")
    for i in range(config.num_layers):
        yield from _Layer(config, i, stream).taps()
        stream = (f"layers.{i}.resid_post",)
    if config.final_norm is None:
        yield top("final", "copy", "h = x''", stream)
    else:
        yield top(
            "final",
            "norm",
            "h = " + _norm("x''", config.final_norm),
            stream,
            _norm_weights("final_norm", config.d_model, config.final_norm),
        )
    head = table if config.tie_embeddings else Weight("lm_head.weight", (config.vocab_size, config.d_model))
    logits = rf"h\,{'E' if config.tie_embeddings else 'W_U'}^\top"
    yield top(
        "logits",
        "linear",
        rf"\ell = {_capped(logits, config.logit_softcap)}",
        ("final",),
        (head,),
        BY_TOKEN,
        (("token", config.vocab_size),),
    )


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
        self.sizes = {
            "d_model": config.d_model,
            "head": attention.num_heads,
            "kv_head": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "neuron": self.layer.mlp.d_ff,
            "expert": self.layer.experts.num_experts if self.layer.experts else 0,
        }

    def taps(self) -> Iterator[Tap]:
        before = {("embed",): "e", ("embed", "pos_embed"): "e + p"}.get(self.stream, f"x''_{{{self.i - 1}}}")
        yield self._tap("resid_pre", "sum" if len(self.stream) > 1 else "copy", f"x = {before}", *self.stream)
        yield self._read("attn_in", "n", "x", "resid_pre", "attention_norm")
        yield from self._project()
        yield from self._attend()
        if self.layer.parallel:
            yield from self._parallel()
            return
        yield self._add("resid_mid", "x'", "x", "o", ("resid_pre", "attn_out"), "attention_sum_norm")
        yield self._read("mlp_in", "n'", "x'", "resid_mid", "mlp_norm")
        yield from self._mlp() if self.layer.experts is None else self._experts(self.layer.experts)
        yield self._add("resid_post", "x''", "x'", "y", ("resid_mid", "mlp_out"), "mlp_sum_norm")

    def _parallel(self) -> Iterator[Tap]:
        """An MLP beside attention: it reads the stream as it came in, by its own norm or by attention's."""
        if self.layer.mlp_norms.before or not self.layer.mixer_norms.before:
            yield self._read("mlp_in", "n'", "x", "resid_pre", "mlp_norm")
        else:
            yield self._tap("mlp_in", "copy", "n' = n", "attn_in")
        yield from self._mlp() if self.layer.experts is None else self._experts(self.layer.experts)
        yield self._tap("resid_post", "sum", "x'' = x + o + y", "resid_pre", "attn_out", "mlp_out")

    def _project(self) -> Iterator[Tap]:
        attention = self.layer.mixer
        for name, out, axes in (
            ("q", attention.q_dim, BY_HEAD),
            ("k", attention.kv_dim, BY_KV_HEAD),
            ("v", attention.kv_dim, BY_KV_HEAD),
        ):
            yield self._linear(
                name,
                name,
                "n",
                name.upper(),
                "attn_in",
                f"attention.{name}_proj",
                (out, self.d_model),
                attention.qkv_bias,
                axes,
            )
        if attention.qk_norm:
            for name, axes in (("q", BY_HEAD), ("k", BY_KV_HEAD)):
                weights = _norm_weights(f"{self.at}.attention.{name}_norm", attention.head_dim, attention.qk_norm)
                yield self._tap(
                    f"{name}_norm",
                    "norm",
                    rf"\hat {name} = {_norm(name, attention.qk_norm)}",
                    name,
                    weights=weights,
                    axes=axes,
                )
        if attention.rope:
            for name, axes in (("q", BY_HEAD), ("k", BY_KV_HEAD)):
                yield self._tap(
                    f"{name}_rot", "rotate", _rotation(name, attention.rope), self._last(name, rotated=False), axes=axes
                )

    def _attend(self) -> Iterator[Tap]:
        attention = self.layer.mixer
        groups = attention.num_heads // attention.num_kv_heads
        shared = "h" if groups == 1 else rf"\lfloor h/{groups} \rfloor"  # the key-value head of query head h
        dot = _capped(rf"{attention.softmax_scale:.4g}\, q_{{h,t}} \cdot k_{{{shared},j}}", attention.softcap)
        seen = r"j \le t" if attention.window is None else rf"t - {attention.window} < j \le t"
        scores = rf"s_{{h,t,j}} = {dot} \;\text{{ if }}\; {seen}, \;\text{{ else }}\; -\infty"
        yield self._tap("scores", "scores", scores, self._last("q"), self._last("k"), axes=BY_PAIR)
        yield self._tap(
            "pattern", "softmax", r"a_{h,t,j} = \frac{\exp s_{h,t,j}}{\sum_{i} \exp s_{h,t,i}}", "scores", axes=BY_PAIR
        )
        yield self._tap(
            "z", "mix", rf"z_{{h,t}} = \sum_{{j}} a_{{h,t,j}}\, v_{{{shared},j}}", "pattern", "v", axes=BY_HEAD
        )
        shape = (self.d_model, attention.q_dim)
        heads = r"[z_1; \dots; z_H]"
        yield self._linear(*self._made("attn", "o"), heads, "O", "z", "attention.o_proj", shape, attention.o_bias)
        yield from self._normed("attn", "o", "attention_post_norm")

    def _mlp(self) -> Iterator[Tap]:
        mlp, wide = self.layer.mlp, (self.layer.mlp.d_ff, self.d_model)
        first = "gate" if mlp.gated else "up"
        act = rf"f = \operatorname{{{mlp.activation.removesuffix('_tanh')}}}(g)"
        yield self._linear("mlp_pre", "g", "n'", first, "mlp_in", f"mlp.{first}_proj", wide, mlp.bias, BY_NEURON)
        if mlp.gated:
            yield self._linear("mlp_up", "u", "n'", "up", "mlp_in", "mlp.up_proj", wide, mlp.bias, BY_NEURON)
            yield self._tap("mlp_act", "activation", act + r" \odot u", "mlp_pre", "mlp_up", axes=BY_NEURON)
        else:
            yield self._tap("mlp_act", "activation", act, "mlp_pre", axes=BY_NEURON)
        shape = (self.d_model, mlp.d_ff)
        yield self._linear(*self._made("mlp", "y"), "f", "down", "mlp_act", "mlp.down_proj", shape, mlp.bias)
        yield from self._normed("mlp", "y", "mlp_post_norm")

    def _experts(self, experts: ExpertsConfig) -> Iterator[Tap]:
        """A mixture of experts: what the router says, what each expert counts for, and their sum. Experts' own neurons
        have no tap.
        """
        shape = (experts.num_experts, self.d_model)
        yield self._linear("router_logits", "r", "n'", "router", "mlp_in", "mlp.router", shape, False, BY_EXPERT)
        among = r"i \in S_t" if experts.normalize else "i"
        share = rf"\frac{{\exp r_{{t,e}}}}{{\sum_{{{among}}} \exp r_{{t,i}}}}"
        chosen = rf"e \in S_t = \operatorname{{top}}_{{{experts.experts_per_token}}} r_t"
        latex = rf"w_{{t,e}} = {share} \;\text{{ if }}\; {chosen}, \;\text{{ else }}\; 0"
        yield self._tap("experts", "route", latex, "router_logits", axes=BY_EXPERT)
        name, symbol = self._made("mlp", "y")
        latex, shapes = rf"{symbol}_t = \sum_{{e}} w_{{t,e}}\, \operatorname{{MLP}}_e(n'_t)", {}
        for e in range(experts.num_experts):
            shapes |= mlp_shapes(f"mlp.experts.{e}.", self.d_model, self.layer.mlp)
        if experts.shared:
            shapes |= mlp_shapes("mlp.shared.", self.d_model, experts.shared)
            gate = r"\sigma(n'_t W_g^\top)\, " if experts.shared_gated else ""
            latex += rf" + {gate}\operatorname{{MLP}}_{{\text{{shared}}}}(n'_t)"
        if experts.shared_gated:
            shapes["mlp.shared_gate.weight"] = (1, self.d_model)
        weights = tuple(Weight(f"{self.at}.{name}", its) for name, its in shapes.items())
        yield self._tap(name, "experts", latex, "mlp_in", "experts", weights=weights)
        yield from self._normed("mlp", "y", "mlp_post_norm")

    def _made(self, part: str, symbol: str) -> tuple[str, str]:
        """Name and symbol of what a part makes: what it adds, or what is normed before it is added."""
        norms = self.layer.mixer_norms if part == "attn" else self.layer.mlp_norms
        return (f"{part}_proj", rf"\hat {symbol}") if norms.after else (f"{part}_out", symbol)

    def _normed(self, part: str, symbol: str, norm: str) -> Iterator[Tap]:
        """What a part adds, where a norm stands after it."""
        if (config := self.layer.norms.get(norm)) is not None:
            name, made = self._made(part, symbol)
            weights = _norm_weights(f"{self.at}.{norm}", self.d_model, config)
            yield self._tap(f"{part}_out", "norm", f"{symbol} = {_norm(made, config)}", name, weights=weights)

    def _read(self, name: str, symbol: str, x: str, source: str, norm: str) -> Tap:
        """What a part reads: the stream, normed first where a norm stands before it."""
        if (config := self.layer.norms.get(norm)) is None:
            return self._tap(name, "copy", f"{symbol} = {x}", source)
        weights = _norm_weights(f"{self.at}.{norm}", self.d_model, config)
        return self._tap(name, "norm", f"{symbol} = {_norm(x, config)}", source, weights=weights)

    def _add(self, name: str, symbol: str, x: str, added: str, sources: tuple[str, str], norm: str) -> Tap:
        """The stream after a part, normed where a norm stands over the sum."""
        if (config := self.layer.norms.get(norm)) is None:
            return self._tap(name, "sum", f"{symbol} = {x} + {added}", *sources)
        weights = _norm_weights(f"{self.at}.{norm}", self.d_model, config)
        return self._tap(name, "norm", f"{symbol} = {_norm(f'({x} + {added})', config)}", *sources, weights=weights)

    def _linear(
        self,
        name: str,
        symbol: str,
        x: str,
        label: str,
        source: str,
        weight: str,
        shape: tuple[int, int],
        bias: bool,
        axes: tuple[str, ...] = STREAM,
    ) -> Tap:
        weights = (Weight(f"{self.at}.{weight}.weight", shape),)
        if bias:
            weights += (Weight(f"{self.at}.{weight}.bias", shape[:1]),)
        label = label if len(label) == 1 else rf"\text{{{label}}}"
        latex = rf"{symbol} = {x}\, W_{{{label}}}^\top" + (rf" + b_{{{label}}}" if bias else "")
        return self._tap(name, "linear", latex, source, weights=weights, axes=axes)

    def _tap(
        self,
        name: str,
        kind: str,
        latex: str,
        *sources: str,
        weights: tuple[Weight, ...] = (),
        axes: tuple[str, ...] = STREAM,
    ) -> Tap:
        return Tap(
            path=f"{self.at}.{name}",
            name=name,
            layer=self.i,
            kind=kind,
            axes=axes,
            widths=tuple((axis, self.sizes[axis]) for axis in axes if axis in self.sizes),
            inputs=sources if name == "resid_pre" else tuple(f"{self.at}.{source}" for source in sources),
            weights=weights,
            latex=latex,
        )

    def _last(self, name: str, rotated: bool = True) -> str:
        """The last form that queries or keys take before they meet."""
        attention = self.layer.mixer
        return f"{name}_rot" if rotated and attention.rope else f"{name}_norm" if attention.qk_norm else name


def _rotation(name: str, rope: RopeConfig) -> str:
    a, b = ("j", f"j+{rope.dim // 2}") if rope.layout == "half" else ("2j", "2j+1")
    a, b = f"{name}_{{{a}}}", f"{name}_{{{b}}}"
    return rf"({a}, {b}) \mapsto ({a} \cos t\theta_j - {b} \sin t\theta_j,\; {b} \cos t\theta_j + {a} \sin t\theta_j)"


def _norm(x: str, norm: NormConfig) -> str:
    gamma = rf"({norm.offset:g} + \gamma)" if norm.offset else r"\gamma"
    if norm.kind == "rms":
        return rf"{gamma} \odot \frac{{{x}}}{{\sqrt{{\operatorname{{mean}}({x}^2) + \epsilon}}}}"
    return rf"{gamma} \odot \frac{{{x} - \mu}}{{\sqrt{{\sigma^2 + \epsilon}}}}" + (r" + \beta" if norm.bias else "")


def _norm_weights(name: str, width: int, norm: NormConfig) -> tuple[Weight, ...]:
    gamma = Weight(f"{name}.weight", (width,))
    return (gamma, Weight(f"{name}.bias", (width,))) if norm.bias else (gamma,)


def _capped(latex: str, cap: float | None) -> str:
    return latex if cap is None else rf"{cap:g} \tanh\left(\frac{{{latex}}}{{{cap:g}}}\right)"
