"""The description of a model: what it is made of, in the field's words, without a framework.

A description and a set of named arrays *are* the model; executors run them. Differences between layers are data:
``ModelConfig.layers`` holds one ``LayerConfig`` a layer. Everything is frozen, keyword-only and checked once, on
construction, so an executor may believe it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields, shown

MAX_SIZE = 2**31 - 1  # a width or a vocabulary beyond this is a damaged or hostile file
MAX_LAYERS = 4096
MAX_ROPE = 1e9  # what multiplies or divides a rotary frequency; beyond it is a damaged or hostile file
MAX_EXPERTS = 2**16  # over all layers


def _check_size(owner: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIZE:
            raise ConfigError(
                f"{name} must be a positive whole number",
                where=owner,
                received=shown(value),
                remedy="check config.json",
            )


def _check_number(owner: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigError(
                f"{name} must be a positive number", where=owner, received=shown(value), remedy="check config.json"
            )


def _check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is unknown", where=owner, expected=" or ".join(choices), received=shown(value))


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """Layer normalization, before γ and β (bias). γ is ``offset`` + the weight: Gemma's files hold what γ has beyond 1.

    ``layer``: (x − μ) / √(σ² + eps) · γ + β (Ba et al. 2016). ``rms``: x / √(mean(x²) + eps) · γ (Zhang & Sennrich
    2019). The offset is no transform of the weight: half of the float32 numbers near ¼ equal no 1 + w.
    """

    kind: Literal["layer", "rms"] = "rms"
    eps: float = 1e-5
    bias: bool = False
    offset: float = 0.0
    wide: bool = False  # γ multiplies in float32, before x̂ is rounded to 16 bits; else after (an offset: before, too)

    def __post_init__(self) -> None:
        check_fields(self, "norm")
        _check_choice("norm", "kind", self.kind, ("layer", "rms"))
        _check_number("norm", eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the context a model was first trained on.

    ``linear``: positions / factor. ``dynamic``: NTK-aware, θ grows with the request's length. ``llama3``: low
    frequencies / factor, high ones kept, a ramp between. ``yarn``: Peng et al. 2023. ``longrope``: a factor for every
    frequency, one list up to ``original_context_len`` and another beyond it. ``factors``: one list always (GGUF's
    ``rope_freqs``).
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope", "factors"]
    factor: float = 1.0
    original_context_len: int | None = None
    attention_factor: float | None = None  # multiplies cos and sin; None: the kind's own default
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "rope scaling")
        _check_choice("rope scaling", "kind", self.kind, ("linear", "dynamic", "llama3", "yarn", "longrope", "factors"))
        _check_number("rope scaling", factor=self.factor)
        _check_number("rope scaling", beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        for name in ("factor", "beta_fast", "beta_slow"):
            if not 1 / MAX_ROPE <= (value := getattr(self, name)) <= MAX_ROPE:
                raise ConfigError(f"{name} is out of range", where="rope scaling", received=shown(value))
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            if (value := getattr(self, name)) is not None and not (
                0 < value <= MAX_ROPE or (value == 0 and name != "attention_factor")
            ):
                raise ConfigError(f"{name} must be a positive number", where="rope scaling", received=shown(value))
        if self.kind in ("dynamic", "llama3", "yarn", "longrope") or self.original_context_len is not None:
            _check_size("rope scaling", original_context_len=self.original_context_len or 0)
        if self.kind == "longrope" and self.original_context_len == 1:
            raise ConfigError("an original context of 1 has no logarithm to divide by", where="rope scaling")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ConfigError(
                "the ramp of llama3's scaling goes from its low to its high factor",
                where="rope scaling",
                expected="0 < low_freq_factor < high_freq_factor",
                received=f"{self.low_freq_factor} and {self.high_freq_factor}",
            )

    @property
    def by_length(self) -> bool:
        """True where the frequencies depend on how long the request has become."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021) of the first ``dim`` dimensions of each head.

    Pair j turns by position · theta^(−2j/dim). ``half`` pairs dimension j with j + dim/2 (GPT-NeoX, Hugging Face's
    Llama); ``interleaved`` pairs 2j with 2j + 1 (the paper, GLM).
    """

    dim: int
    theta: float = 10000.0
    layout: Literal["half", "interleaved"] = "half"
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        check_fields(self, "rope")
        _check_size("rope", dim=self.dim)
        _check_number("rope", theta=self.theta)
        _check_choice("rope", "layout", self.layout, ("half", "interleaved"))
        if self.dim % 2:
            raise ConfigError(
                "rope rotates pairs of dimensions", where="rope", expected="an even dim", received=self.dim
            )
        scaling = self.scaling
        if scaling and scaling.kind == "yarn" and self.theta == 1:
            raise ConfigError("yarn divides by the logarithm of theta", where="rope", received="theta = 1")
        if scaling and scaling.kind == "dynamic" and self.dim == 2:
            raise ConfigError("dynamic scaling raises to the power dim / (dim − 2)", where="rope", received="dim = 2")
        lists = {"longrope": ("short_factors", "long_factors"), "factors": ("short_factors",)}
        for name in lists.get(scaling.kind, ()) if scaling else ():
            factors = getattr(scaling, name)
            if len(factors) != self.dim // 2 or not all(factor > 0 for factor in factors):
                raise ConfigError(
                    f"{name} needs a positive number for each rotated pair",
                    where="rope",
                    expected=self.dim // 2,
                    received=len(factors),
                )


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """softmax(q kᵀ · scale + mask) v, by head; ``num_heads / num_kv_heads`` query heads share a key-value head."""

    name: ClassVar[str] = "attention"  # of the mixer in its weights' names

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: NormConfig | None = None  # normalizes q and k
    qk_norm_over: Literal["head", "all"] = "head"  # each head by itself, with one γ for all; or all heads as one vector
    qk_norm_at: Literal["before", "after"] = "before"  # rotation
    rope: RopeConfig | None = None
    window: int | None = None  # a query sees this many positions, its own included; None: all before it
    scale: float | None = None  # None: head_dim^-0.5
    softcap: float | None = None  # scores become softcap · tanh(scores / softcap)

    def __post_init__(self) -> None:
        check_fields(self, "attention")
        _check_size("attention", num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "query heads must divide evenly over key-value heads",
                where="attention",
                expected=f"num_heads a multiple of num_kv_heads = {self.num_kv_heads}",
                received=self.num_heads,
                remedy="check num_attention_heads and num_key_value_heads in config.json",
            )
        if self.rope and self.rope.dim > self.head_dim:
            raise ConfigError(
                "rope rotates more dimensions than a head has",
                where="attention",
                expected=f"≤ {self.head_dim}",
                received=self.rope.dim,
            )
        if self.window is not None:
            _check_size("attention", window=self.window)
        _check_choice("attention", "qk_norm_over", self.qk_norm_over, ("head", "all"))
        _check_choice("attention", "qk_norm_at", self.qk_norm_at, ("before", "after"))

    @property
    def q_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def softmax_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.attention.q_proj.weight": (576, 576), …}`` for ``layers.0.attention.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part, width in (("q", self.q_dim), ("k", self.kv_dim), ("v", self.kv_dim)):
            shapes |= _linear_shapes(f"{prefix}{part}_proj", width, d_model, self.qkv_bias)
        if self.qk_norm:
            for part, width in (("q", self.q_dim), ("k", self.kv_dim)):
                over = self.head_dim if self.qk_norm_over == "head" else width
                shapes |= _norm_shapes(f"{prefix}{part}_norm", over, self.qk_norm)
        return shapes | _linear_shapes(f"{prefix}o_proj", d_model, self.q_dim, self.o_bias)


Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]  # relu2: relu(x)²


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """down(act(up(x))), or gated: down(act(gate(x)) ⊙ up(x)) (Shazeer 2020)."""

    d_ff: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "mlp")
        _check_size("mlp", d_ff=self.d_ff)
        _check_choice("mlp", "activation", self.activation, get_args(Activation))


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts: many MLPs of one shape, of which each token goes through a few, and their weighted sum.

    With r = x W_rᵀ (a score for each expert) and S the ``experts_per_token`` largest of them, a token's result is Σ_{e
    ∈ S} w_e · MLP_e(x), w = softmax(r), or, ``normalize``, w_e / Σ_{S} w. ``shared`` is one more MLP that every token
    goes through; ``shared_gated`` multiplies what it gives by σ(x W_gᵀ), a number a token. Source: Shazeer et al. 2017;
    Jiang et al. 2024 (Mixtral) §2.1; Dai et al. 2024 (shared).
    """

    num_experts: int
    experts_per_token: int
    normalize: bool = True
    shared: MLPConfig | None = None
    shared_gated: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "experts")
        _check_size("experts", num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        if self.experts_per_token > self.num_experts:
            raise ConfigError(
                "a token cannot go through more experts than there are",
                where="experts",
                expected=f"at most num_experts = {self.num_experts}",
                received=self.experts_per_token,
                remedy="check num_experts_per_tok in config.json",
            )
        if self.shared_gated and self.shared is None:
            raise ConfigError("there is no shared expert to gate", where="experts")


@dataclass(frozen=True, kw_only=True)
class PartNorms:
    """Where norms stand about a part f of a layer: x' = sum(x + after(f(before(x)))); one that is None is the identity.

    ``before`` alone is GPT-2's and Llama's order (pre-norm); ``sum`` alone that of *Attention Is All You Need*
    (post-norm); ``before`` and ``after`` are Gemma's (a sandwich); ``after`` alone is OLMo 2's.
    """

    before: NormConfig | None = None
    after: NormConfig | None = None
    sum: NormConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, "norms")


# What moves information between positions; other kinds join here. Each has a ``name``, its ``weight_shapes``, and
# ``rope`` where it rotates.
Mixer = AttentionConfig


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer: a mixer, which moves information between positions, then an MLP, each added to the residual stream.

    A sparse layer has ``experts``: ``mlp`` is then the shape of each of them. ``parallel``: both parts read the stream
    as it came in, x + attention(…) + mlp(…); an MLP without a norm of its own then reads what attention reads.
    ``residual_scale`` multiplies what each part adds.
    """

    mixer: Mixer
    mlp: MLPConfig
    mixer_norms: PartNorms
    mlp_norms: PartNorms
    experts: ExpertsConfig | None = None
    parallel: bool = False
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "layer")
        _check_number("layer", residual_scale=self.residual_scale)
        if self.residual_scale != 1 and (self.mixer_norms.after or self.mlp_norms.after):
            raise ConfigError("a part has a norm after it, or what it adds is scaled; not both", where="layer")
        if self.parallel and (self.mixer_norms.sum or self.mlp_norms.sum):
            raise ConfigError("parts that are added together have no sums of their own to norm", where="layer")

    @property
    def attention(self) -> AttentionConfig | None:
        """The mixer, where it attends; None where it is of another kind."""
        return self.mixer if isinstance(self.mixer, AttentionConfig) else None

    @property
    def norms(self) -> dict[str, NormConfig]:
        """The layer's norms over the stream's width, by their weights' names, in the order of computation."""
        named = {
            "attention_norm": self.mixer_norms.before,
            "attention_post_norm": self.mixer_norms.after,
            "attention_sum_norm": self.mixer_norms.sum,
            "mlp_norm": self.mlp_norms.before,
            "mlp_post_norm": self.mlp_norms.after,
            "mlp_sum_norm": self.mlp_norms.sum,
        }
        return {name: norm for name, norm in named.items() if norm is not None}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer, whole."""

    model_type: str
    vocab_size: int
    d_model: int
    context_len: int
    layers: tuple[LayerConfig, ...]
    final_norm: NormConfig | None
    position: Literal["none", "learned", "sinusoidal"] = "none"  # what is added to embeddings; rotary is per layer
    embedding_scale: float = 1.0
    tie_embeddings: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0  # multiplies logits, before they are capped
    logit_softcap: float | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # config.json's keys that we do not interpret

    def __post_init__(self) -> None:
        check_fields(self, "model")
        _check_size(self.model_type, vocab_size=self.vocab_size, d_model=self.d_model, context_len=self.context_len)
        _check_number(self.model_type, embedding_scale=self.embedding_scale, logit_scale=self.logit_scale)
        if self.head_bias and self.tie_embeddings:
            raise ConfigError("an output layer that is the embedding table has no bias", where=self.model_type)
        _check_choice(self.model_type, "position", self.position, ("none", "learned", "sinusoidal"))
        if not 0 < len(self.layers) <= MAX_LAYERS:
            raise ConfigError(
                "num_layers is out of range",
                where=self.model_type,
                expected=f"1 to {MAX_LAYERS}",
                received=len(self.layers),
            )
        if (experts := sum(layer.experts.num_experts for layer in self.layers if layer.experts)) > MAX_EXPERTS:
            raise ConfigError(
                "there are too many experts",
                where=self.model_type,
                expected=f"at most {MAX_EXPERTS} in all",
                received=experts,
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ConfigError(
                "sinusoidal positions pair dimensions",
                where=self.model_type,
                expected="an even d_model",
                received=self.d_model,
            )
        if self.position == "sinusoidal" and self.context_len * self.d_model > MAX_SIZE:
            raise ConfigError(
                "the position table would be too large", where=self.model_type, expected=f"at most {MAX_SIZE} cells"
            )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def longest_context(self) -> int:
        """Tokens that prompt and answer may have together: ``context_len``, or more where rotary scalings stretch it.

        With linear, dynamic and yarn scalings config.json names the length before the stretch, and factor · that is
        what the model is meant to reach; llama3's and longrope's files name the stretched one. Where a layer rotates
        without a scaling, or positions come from a table, ``context_len`` it is. Source: vLLM's
        ``_get_and_verify_max_len``; transformers' modeling_rope_utils ("don't update max_position_embeddings").
        """
        if self.position != "none" or not self.ropes:
            return self.context_len
        return max(self.context_len, min(_stretched(rope.scaling) or self.context_len for rope in self.ropes))

    @property
    def rotates_by_length(self) -> bool:
        """Whether rotary frequencies depend on how long a request has become (dynamic and longrope scalings)."""
        return any(rope.scaling.by_length for rope in self.ropes if rope.scaling)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotations there are, each once, in the order of the layers that first use them."""
        return tuple(dict.fromkeys(rope for layer in self.layers if (rope := getattr(layer.mixer, "rope", None))))

    def num_parameters(self) -> int:
        """Parameters, each shared one counted once."""
        return sum(math.prod(shape) for shape in weight_shapes(self).values())

    def num_active_parameters(self) -> int:
        """Parameters that take part in one token's computation: without the experts that it does not go through."""
        idle = 0
        for layer in self.layers:
            if experts := layer.experts:
                its = sum(math.prod(shape) for shape in mlp_shapes("", self.d_model, layer.mlp).values())
                idle += (experts.num_experts - experts.experts_per_token) * its
        return self.num_parameters() - idle


def _stretched(scaling: RopeScaling | None) -> int | None:
    """The context that a scaling is for, where that is not what ``context_len`` says already."""
    if scaling is None or scaling.kind not in ("linear", "dynamic", "yarn") or scaling.original_context_len is None:
        return None
    return int(min(scaling.factor * scaling.original_context_len, MAX_SIZE))


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape, in the order of computation: ``{"layers.0.attention.q_proj.weight": (576, 576),
    …}``.

    This is the contract between checkpoints and executors. A tied ``lm_head.weight`` is not listed.
    """
    d = config.d_model
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, d)}
    if config.position == "learned":
        shapes["pos_embed.weight"] = (config.context_len, d)
    for i, layer in enumerate(config.layers):
        at, mlp, norms = f"layers.{i}", layer.mlp, layer.norms
        for name in (name for name in norms if name.startswith("attention")):
            shapes |= _norm_shapes(f"{at}.{name}", d, norms[name])
        shapes |= layer.mixer.weight_shapes(f"{at}.{layer.mixer.name}.", d)
        for name in (name for name in norms if name.startswith("mlp")):
            shapes |= _norm_shapes(f"{at}.{name}", d, norms[name])
        if (experts := layer.experts) is None:
            shapes |= mlp_shapes(f"{at}.mlp.", d, mlp)
            continue
        shapes |= _linear_shapes(f"{at}.mlp.router", experts.num_experts, d, False)
        for e in range(experts.num_experts):
            shapes |= mlp_shapes(f"{at}.mlp.experts.{e}.", d, mlp)
        if experts.shared:
            shapes |= mlp_shapes(f"{at}.mlp.shared.", d, experts.shared)
        if experts.shared_gated:
            shapes |= _linear_shapes(f"{at}.mlp.shared_gate", 1, d, False)
    if config.final_norm:
        shapes |= _norm_shapes("final_norm", d, config.final_norm)
    if not config.tie_embeddings:
        shapes |= _linear_shapes("lm_head", config.vocab_size, d, config.head_bias)
    return shapes


def _linear_shapes(name: str, out: int, into: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm_shapes(name: str, width: int, norm: NormConfig) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if norm.bias else {})


def mlp_shapes(prefix: str, d_model: int, mlp: MLPConfig) -> dict[str, tuple[int, ...]]:
    """The weights of one MLP: ``{"layers.0.mlp.gate_proj.weight": (1536, 576), …}`` for ``layers.0.mlp.``."""
    wide, back = (mlp.d_ff, d_model), (d_model, mlp.d_ff)
    maps = (
        {"gate_proj": wide, "up_proj": wide, "down_proj": back} if mlp.gated else {"up_proj": wide, "down_proj": back}
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into) in maps.items():
        shapes |= _linear_shapes(f"{prefix}{name}", out, into, mlp.bias)
    return shapes
