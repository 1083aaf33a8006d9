"""The one decoder: every family, from its description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from pellucid.config.recurrent import Recurrent
from pellucid.model.attention import Attention
from pellucid.model.claims import TORCH
from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear
from pellucid.model.linear import Embedding, Linear
from pellucid.model.mixers import make_mixer
from pellucid.model.mlp import MLP
from pellucid.model.moe import MoE
from pellucid.model.norm import LayerNorm, RMSNorm, make_norm, normed, optional_norm
from pellucid.model.position import looked_up, rotation, sinusoidal_table
from pellucid.model.side import Side, SideInputs


class Layer(nn.Module):
    """x + mixer(x), then x + mlp(x), or both at once (``parallel``), or one of the two alone; with norms where the
    description has them.
    """

    attention: Attention  # the mixer, by the name of its kind

    def __init__(
        self, d_model: int, config: LayerConfig, layer: int, beside: int = 0, wide_stream: bool = False
    ) -> None:
        """``layer`` and ``beside``: where a cache has the states of its mixer, and of the one beside it."""
        super().__init__()
        self.wide_stream = wide_stream
        self.parallel, self.residual_scale = config.parallel, config.residual_scale
        self.kind = None if config.mixer is None else config.mixer.name
        self.recurrent = isinstance(config.mixer, Recurrent)
        self.attention_norm = optional_norm(d_model, config.mixer_norms.before)
        if config.mixer is not None:
            self.add_module(config.mixer.name, make_mixer(d_model, config.mixer, layer))
        self.beside = None if config.beside is None else config.beside.name
        if config.beside is not None:
            self.add_module(config.beside.name, make_mixer(d_model, config.beside, beside))
            for kind in (self.kind or "", config.beside.name):
                self.get_submodule(kind).shown = True  # type: ignore[assignment]
        self.attention_post_norm = optional_norm(d_model, config.mixer_norms.after)
        self.attention_sum_norm = optional_norm(d_model, config.mixer_norms.sum)
        self.mlp_norm = optional_norm(d_model, config.mlp_norms.before)
        self.mlp = None if config.mlp is None else make_mlp(d_model, config.mlp, config.experts)
        self.mlp_post_norm = optional_norm(d_model, config.mlp_norms.after)
        self.mlp_sum_norm = optional_norm(d_model, config.mlp_norms.sum)
        self.side = None if config.side is None else Side(d_model, config.side, layer)
        self.out_scale = nn.Parameter(torch.ones(1)) if config.out_scale else None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if (known_as := self.__dict__.get("known_as")) is None or name.startswith("_"):
                raise
        return known_as(name)  # by the name that another library has for a part of a layer

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = ctx.tap(self, "resid_pre", x)
        if self.parallel:
            read = self.read(self.attention_norm, x)
            mlp_read = read if self.mlp_norm is None else self.read(self.mlp_norm, x)
            return ctx.tap(self, "resid_post", x + self.attend(read, ctx) + self.think(mlp_read, ctx))
        if self.kind is not None:
            x = normed(self.attention_sum_norm, x + self.attend(self.read(self.attention_norm, x), ctx))
            if self.mlp is not None:
                x = ctx.tap(self, "resid_mid", x)
        if self.mlp is not None:
            x = normed(self.mlp_sum_norm, x + self.think(self.read(self.mlp_norm, x), ctx))
        if self.side is not None:
            x = ctx.tap(self, "resid_mlp", x)
            x = x + self.side(x, ctx)
        if self.out_scale is not None:
            x = ctx.tap(self, "resid_unscaled", x) * self.out_scale
        return ctx.tap(self, "resid_post", x)

    def initialize_weight(self, name: str, weight: Tensor, generator: torch.Generator | None = None) -> None:
        """Of its own there is one, which at first changes nothing."""
        weight.fill_(1.0)

    def read(self, norm: nn.Module | None, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """What a part reads of the stream: normed, in the dtype that the part computes in."""
        return normed(norm, x.to(next(self.parameters()).dtype) if self.wide_stream else x)

    def attend(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        """What the mixer adds to the stream."""
        assert self.kind is not None
        if self.beside is not None:
            x = ctx.tap(self, "attn_in", x)
            o = ctx.tap(self, "attn_out", getattr(self, self.kind)(x, ctx))
            return o + ctx.tap(self, "beside_out", getattr(self, self.beside)(x, ctx))
        o = getattr(self, self.kind)(x, ctx)
        if self.attention_post_norm is not None:
            o = self.attention_post_norm(ctx.tap(self, "attn_proj", o))
        elif self.residual_scale != 1:
            o = ctx.tap(self, "attn_proj", o) * self.residual_scale
        return ctx.tap(self, "attn_out", o)

    def think(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        """What the MLP adds to the stream."""
        assert self.mlp is not None
        y = self.mlp(x, ctx)
        if self.mlp_post_norm is not None:
            y = self.mlp_post_norm(ctx.tap(self, "mlp_proj", y))
        elif self.residual_scale != 1:
            y = ctx.tap(self, "mlp_proj", y) * self.residual_scale
        return ctx.tap(self, "mlp_out", y)


def make_mlp(d_model: int, mlp: MLPConfig, experts: ExpertsConfig | None) -> MLP | MoE:
    return MLP(d_model, mlp) if experts is None else MoE(d_model, mlp, experts)


class Decoder(nn.Module):
    """token ids → embeddings (+ positions) → layers → final norm → logits."""

    recompute = 0  # n: of each n-th layer keep only what it reads, and compute the rest anew on the way back; 0: none
    generation_config: Mapping[str, Any] = {}  # what the checkpoint that it came from asks for when it answers
    quantization: str | None = None  # how that checkpoint's weights were quantized, in a few words

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        TORCH.require(config)
        self.config = config
        self.embed = Embedding(config.vocab_size, config.d_model)
        self.pos_embed = Embedding(config.context_len, config.d_model) if config.position == "learned" else None
        if config.position == "sinusoidal":  # derived from the config alone, so in no checkpoint
            self.register_buffer("sinusoidal", sinusoidal_table(config.context_len, config.d_model), persistent=False)
        self.embed_norm = optional_norm(config.d_model, config.embedding_norm)
        besides = accumulate((layer.beside is not None for layer in config.layers), initial=config.num_layers)
        self.layers = nn.ModuleList(
            Layer(config.d_model, layer, i, place, config.wide_stream)
            for i, (layer, place) in enumerate(zip(config.layers, besides, strict=False))
        )
        for layer in config.layers:
            if (lender := getattr(layer.mixer, "kv_from", None)) is not None:
                self.layers[lender].get_submodule("attention").lends = True  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        if (side := config.layers[0].side) is not None:
            whole = side.width * config.num_layers
            self.side_embed, self.side_proj = Embedding(config.vocab_size, whole), Linear(config.d_model, whole, False)
            self.side_norm = make_norm(side.width, side.norm)
        self.final_norm = make_norm(config.d_model, config.final_norm) if config.final_norm else None
        if not config.tie_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size, config.head_bias)

    @property
    def head(self) -> Linear | None:
        """The map to logits; None where it is the embedding table."""
        return self._modules.get("lm_head")  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def hidden(self, token_ids: Int[Tensor, "B T"] | Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        """The residual stream after the last layer and the final norm. In place of ids there may be rows of the
        embedding table, or what somebody made of them.

        Raises: ContextLengthError where a learned or sinusoidal table has no row for a position; RequestError for an id
        out of range.
        """
        self._check(token_ids, ctx)
        x = token_ids if token_ids.is_floating_point() else self.embed(token_ids)  # (B, T, D)
        if self.config.embedding_scale != 1.0:
            x = x * x.new_tensor(self.config.embedding_scale)  # √640 is 25.25 in bfloat16: so models were trained
        x = ctx.tap(self, "embed", x)
        if (table := self._position_table()) is not None:
            x = x + ctx.tap(self, "pos_embed", table[ctx.positions])
        if self.embed_norm is not None:
            x = ctx.tap(self, "embed_norm", self.embed_norm(x))
        lengths = (
            ctx.positions.amax(1, keepdim=True).add(1).expand_as(ctx.positions) if ctx.lengths is None else ctx.lengths
        )
        ctx.rotations = {
            rope: looked_up(ctx.tables[rope], ctx.positions)
            if rope in ctx.tables
            else rotation(rope, ctx.positions, lengths, x.dtype)
            for rope in self.config.ropes
        }
        ctx.lent.clear()
        ctx.side = self._side(token_ids, x, ctx) if self.config.layers[0].side else None
        every = self.recompute if self.training and torch.is_grad_enabled() else 0
        if self.config.wide_stream:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        for i, layer in enumerate(self.layers):
            x = checkpoint(layer, x, ctx, use_reentrant=False) if every and i % every == 0 else layer(x, ctx)
        if ctx.cache is not None:
            ctx.cache.advance(token_ids.shape[1])
        x = x if self.final_norm is None else self.final_norm(x)
        return ctx.tap(self, "final", x.to(self.dtype) if self.config.wide_stream else x)

    def _side(self, token_ids: Int[Tensor, "B T"], x: Float[Tensor, "B T D"], ctx: Context) -> SideInputs:
        """For every layer a narrow vector of each token: a row of a table, and a map of the embedding."""
        side = self.config.layers[0].side
        assert side is not None
        if token_ids.is_floating_point():
            raise RequestError("this model's layers look tokens up by their ids", received="embeddings in place of ids")
        width = x.new_tensor(math.sqrt(side.width))
        rows = ctx.tap(self, "side_embed", self.side_embed(token_ids) * width)
        mapped = ctx.tap(self, "side_context", self.side_proj(x, ctx) * self.config.d_model**-0.5)
        return SideInputs(rows, mapped, self.side_norm)

    def logits(self, hidden: Float[Tensor, "*rows D"], ctx: Context) -> Float[Tensor, "*rows V"]:
        """hidden W_Vᵀ (+ b): a score for every token of the vocabulary; tied, W_V is the embedding table."""
        linear = rows_invariant_linear if ctx.rows_invariant else F.linear
        logits = linear(hidden, self.embed.weight) if self.head is None else self.head(hidden, ctx)
        if self.config.logit_scale != 1:
            logits = logits * self.config.logit_scale
        if (cap := self.config.logit_softcap) is not None:
            logits = cap * torch.tanh(logits / cap)
        return ctx.tap(self, "logits", logits)

    def forward(self, token_ids: Int[Tensor, "B T"], ctx: Context) -> Float[Tensor, "B T V"]:
        return self.logits(self.hidden(token_ids, ctx), ctx)

    def _check(self, token_ids: Tensor, ctx: Context) -> None:
        if ctx.checked or torch.compiler.is_compiling() or token_ids.is_meta or token_ids.numel() == 0:
            return
        low, high = (0, 0) if token_ids.is_floating_point() else token_ids.aminmax()
        if low < 0 or high >= self.config.vocab_size:
            raise RequestError(
                "a token id is out of range",
                expected=f"0 to {self.config.vocab_size - 1}",
                received=f"{int(low)} to {int(high)}",
            )
        if self.config.position != "none" and (last := int(ctx.positions.max())) >= self.config.context_len:
            raise ContextLengthError(
                "the model has no row for this position",
                expected=f"at most {self.config.context_len} tokens",
                received=last + 1,
            )
        if ctx.cache is not None:
            ctx.cache.reserve(token_ids.shape[1])

    def _position_table(self) -> Float[Tensor, "S D"] | None:
        if self.pos_embed is not None:
            return self.pos_embed.weight
        return self.get_buffer("sinusoidal") if self.config.position == "sinusoidal" else None

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> Decoder:
        """Fresh weights: N(0, 0.02²), projections into the residual stream divided by √(2·num_layers), γ = 1, β = 0.

        An embedding that is scaled by √d_model starts at N(0, 1/d_model), so that it enters the stream with unit
        variance. Source: Radford et al. 2019 §2.3 (GPT-2); Vaswani et al. 2017 §3.4.
        """
        for name, parameter in self.named_parameters():
            self.initialize_weight(name, parameter, generator)
        return self

    @torch.no_grad()
    def initialize_weight(self, name: str, weight: Tensor, generator: torch.Generator | None = None) -> None:
        """``initialize`` for one weight, whose values may lie elsewhere than in the model."""
        residual = 0.02 / (2 * self.config.num_layers) ** 0.5
        path, _, leaf = name.rpartition(".")
        if (own := getattr(self.get_submodule(path), "initialize_weight", None)) is not None and path:
            own(leaf, weight, generator)  # a part that begins otherwise
        elif "norm" in name:
            norm = self.get_submodule(path)
            assert isinstance(norm, LayerNorm | RMSNorm)
            weight.fill_(1.0 - norm.offset if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            weight.zero_()
        elif ".xielu." in name:  # α_p = α_n = 0.8 at first
            beta, eps = 0.5, -1e-6
            start = {"alpha_p": math.log(math.expm1(0.8)), "alpha_n": math.log(math.expm1(0.8 - beta))}
            weight.fill_((start | {"beta": beta, "eps": eps})[name.rpartition(".")[2]])
        elif name == "embed.weight" and self.config.embedding_scale != 1.0:
            weight.normal_(0.0, self.config.embedding_scale**-1, generator=generator)
        else:
            weight.normal_(
                0.0, residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02, generator=generator
            )
