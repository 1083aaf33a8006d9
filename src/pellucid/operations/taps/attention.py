"""The taps of attention: q, k and v, normed and rotated, scores, pattern, and what the heads make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pellucid.config import AttentionConfig, ModelConfig
from pellucid.operations.copy import Copy
from pellucid.operations.grow import Grow
from pellucid.operations.mix import Mix
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Line
from pellucid.operations.product import Product
from pellucid.operations.rotate import Rotate
from pellucid.operations.scale import Scale
from pellucid.operations.scores import Scores
from pellucid.operations.softmax import Softmax
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import BY_HEAD, BY_KV_HEAD, BY_PAIR, Tap, Whole

SCALED = Line("model.attention", "Attention.forward", "* self.config.in_scale")
GATED = Line("model.attention", "Attention.forward", 'gate("sigmoid"')


class AttentionTaps(Part):
    """Attention's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, attention: AttentionConfig) -> None:
        sizes = {"head": attention.num_heads, "kv_head": attention.num_kv_heads, "head_dim": attention.head_dim}
        super().__init__(config, i, sizes)
        self.attention, self.whole = attention, config

    def taps(self) -> Iterator[Tap]:
        attention = self.attention
        out, read = {"q": attention.q_dim, "k": attention.kv_dim, "v": attention.v_dim}, "attn_in"
        scales = {"q": 1.0, "k": attention.k_scale, "v": attention.v_scale}
        if attention.in_scale != 1:
            read = "attn_scaled"
            yield self.tap(read, Scale(attention.in_scale, code=SCALED), "n", ("n",), "attn_in")
        for name in attention.projected:
            shape, axes = (out[name], self.d_model), BY_HEAD if name == "q" else BY_KV_HEAD
            projection = self.linear(f"attention.{name}_proj", name.upper(), shape, attention.qkv_bias)
            width = attention.v_width if name == "v" else attention.head_dim
            cut = replace(projection, head_dim=width, clip=attention.clip, scale=scales[name])
            yield self.tap(name, cut, name, ("n",), read, axes=axes, head_dim=width)
        if attention.keys_are_values:
            yield self.tap("v", Copy(), "v", ("k",), "k", axes=BY_KV_HEAD)
        if (norm := attention.v_norm) is not None:
            of_head = Norm(name=f"{self.at}.attention.v_norm", width=attention.v_width, config=norm)
            yield self.tap("v_norm", of_head, r"\hat v", ("v",), "v", axes=BY_KV_HEAD, head_dim=attention.v_width)
        last = {"q": "q", "k": "k"}
        steps = (self._qk_norms(last), self._rotations(last))
        for step in steps if attention.qk_norm_at == "before" else reversed(steps):
            yield from step
        if attention.query_scale is not None:
            yield self.tap("q_scaled", Grow(attention.query_scale), "q", ("q",), last["q"], axes=BY_HEAD)
            last["q"] = "q_scaled"
        groups = attention.num_heads // attention.num_kv_heads
        scores = Scores(
            scale=attention.softmax_scale,
            groups=groups,
            softcap=attention.softcap,
            window=attention.window,
            chunk=attention.chunk,
            slopes=attention.alibi_slopes,
        )
        keys, values = last["k"], "v" if attention.v_norm is None else "v_norm"
        if (lender := attention.kv_from) is not None:
            keys, values = (Whole(f"layers.{lender}.{name}") for name in _made(self.whole.layers[lender].mixer))
        yield self.tap("scores", scores, "s", ("q", "k"), last["q"], keys, axes=BY_PAIR)
        share = Softmax(sinks=f"{self.at}.attention.sinks" if attention.sinks else None, heads=attention.num_heads)
        yield self.tap("pattern", share, "a", ("s",), "scores", axes=BY_PAIR)
        own = {"axes": BY_HEAD, "head_dim": attention.v_width}
        yield self.tap("z", Mix(groups=groups), "z", ("a", "v"), "pattern", values, **own)
        out = replace(
            self.linear("attention.o_proj", "O", (self.d_model, attention.z_dim), attention.o_bias),
            joins=True,
            scale=attention.out_scale,
        )
        z, last_z = "z", "z"
        if attention.gated:
            wide = (attention.z_dim, self.d_model)
            gate = replace(
                self.linear("attention.gate_proj", "gate", wide, attention.qkv_bias), head_dim=attention.v_width
            )
            yield self.tap("z_gate", gate, "m", ("n",), read, **own)
            z, last_z = r"\bar z", "z_gated"
            yield self.tap("z_gated", Product(gate="sigmoid", code=GATED), z, ("m", "z"), "z_gate", "z", **own)
        name, symbol = self.made("attn", "o")
        yield self.tap(name, out, symbol, (rf"[{z}_1; \dots; {z}_H]",), last_z)
        yield from self.normed("attn", "o", "attention_post_norm")

    def _qk_norms(self, last: dict[str, str]) -> Iterator[Tap]:
        """``last``: the taps of queries and keys so far."""
        attention = self.attention
        if attention.qk_norm is None:
            return
        for name, heads, axes in (("q", attention.num_heads, BY_HEAD), ("k", attention.num_kv_heads, BY_KV_HEAD)):
            if name not in attention.projected:
                continue
            together = attention.qk_norm_over != "head"
            norm = Norm(
                name=f"{self.at}.attention.{name}_norm",
                width=attention.head_dim * (heads if together else 1),
                config=attention.qk_norm_of(heads) or attention.qk_norm,
                heads=heads if together else None,
            )
            yield self.tap(f"{name}_norm", norm, rf"\hat {name}", (name,), last[name], axes=axes)
            last[name] = f"{name}_norm"

    def _rotations(self, last: dict[str, str]) -> Iterator[Tap]:
        if (rope := self.attention.rope) is None:
            return
        for name, axes in (("q", BY_HEAD), ("k", BY_KV_HEAD)):
            if name not in self.attention.projected:
                continue
            yield self.tap(f"{name}_rot", Rotate(rope=rope), "", (name,), last[name], axes=axes)
            last[name] = f"{name}_rot"


def _made(attention: AttentionConfig) -> tuple[str, str]:
    """Names of the taps that hold a layer's keys and values as they are looked at."""
    normed, turned = ("k_norm" if attention.qk_norm else None), ("k_rot" if attention.rope else None)
    order = (turned, normed) if attention.qk_norm_at == "before" else (normed, turned)
    return next((name for name in order if name), "k"), "v_norm" if attention.v_norm else "v"
