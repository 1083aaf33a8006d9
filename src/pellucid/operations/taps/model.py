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

import math
from collections.abc import Iterator

from pellucid.config import ModelConfig
from pellucid.operations.copy import Copy
from pellucid.operations.linear import Linear
from pellucid.operations.lookup import Lookup
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Operation
from pellucid.operations.position import Position
from pellucid.operations.taps.layer import LayerTaps
from pellucid.operations.taps.tap import BY_TOKEN, STREAM, Tap


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
    if config.embedding_norm is not None:
        norm = Norm(name="embed_norm", width=d, config=config.embedding_norm)
        yield top("embed_norm", norm, norm.equation(r"\hat e", *("e", "p")[: len(stream)]), *stream)
        stream = ("embed_norm",)
    if (side := config.layers[0].side) is not None:
        sizes["sides"] = wide = side.width * config.num_layers
        axes = ("batch", "position", "sides")
        rows = Lookup(name="side_embed", rows=config.vocab_size, width=wide, scale=math.sqrt(side.width))
        yield top("side_embed", rows, rows.equation("R"), axes=axes)
        mapped = Linear(name="side_proj", shape=(wide, d), matrix=r"W_{\text{side}}", scale=d**-0.5)
        yield top("side_context", mapped, mapped.equation("M", "e"), *stream, axes=axes)
    for i in range(config.num_layers):
        yield from LayerTaps(config, i, stream).taps()
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
