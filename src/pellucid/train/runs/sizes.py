"""The one dial: from a depth to a model, a batch and a length of training that suit each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pellucid.base.errors import ConfigError
from pellucid.config import LatentAttentionConfig, LayerConfig, Mixer, MLPConfig, ModelConfig, weight_shapes
from pellucid.config.recurrent import Recurrent
from pellucid.families import FAMILIES, family_of

DEFAULT_FAMILY = next(iter(FAMILIES))
WIDTH_OF_DEPTH = 64  # d_model = 64 · depth, as nanochat has it
TOKENS_OF_PARAMETER = 20  # Hoffmann et al. 2022 (Chinchilla): about 20 tokens for each parameter
MAX_EPOCHS = 10
MAX_PARTS = 2**20  # layers, or experts in all of them


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that are asked for; None: as follows from the depth."""

    depth: int
    context_len: int
    d_model: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    d_ff: int | None = None
    num_experts: int | None = None
    experts_per_token: int | None = None


def describe(
    model_type: str,
    sizes: Sizes,
    *,
    vocab_size: int,
    tie_embeddings: bool = True,
    dtype: str = "float32",
    ids: Mapping[str, int | None] | None = None,
) -> ModelConfig:
    """A model of a family, in the sizes asked for.

    ``ids``: ``bos_token_id``, ``eos_token_id``, ``pad_token_id``. The family's small test model gives its mechanisms,
    and the sizes are put in.

    Raises: ConfigError for sizes that do not fit each other, or that the family cannot write down.
    """
    family = family_of(model_type, "--model-type")
    small: ModelConfig = family.config(family.TINY)
    depth = sizes.depth
    if depth * (sizes.num_experts or 1) > MAX_PARTS:
        raise ConfigError("too many experts in all layers together", expected=f"at most {MAX_PARTS:,}")
    d_model = sizes.d_model or WIDTH_OF_DEPTH * (sizes.num_heads or depth)
    num_heads = sizes.num_heads or max(d_model // 64, 1)
    if d_model % num_heads:
        raise ConfigError(
            "d_model must divide evenly over heads", expected=f"a multiple of num_heads = {num_heads}", received=d_model
        )
    turns = [small.layers[i % small.num_layers] for i in range(depth)]  # of several kinds: as in the small model
    if len({(type(layer.mixer), type(layer.mlp)) for layer in turns}) == 1:
        turns = [next((layer for layer in small.layers if layer.experts), small.layers[0])] * depth  # a mixture, if any
    attends = [i for i, layer in enumerate(small.layers) if layer.attends]
    if attends and depth <= attends[0]:
        raise ConfigError(
            f"no layer of so shallow a {model_type} would attend",
            expected=f"a depth of at least {attends[0] + 1}",
            received=depth,
        )
    layers = tuple(_layer(layer, d_model, num_heads, sizes) for layer in turns)
    if (sizes.num_experts or sizes.experts_per_token) and not any(layer.experts for layer in layers):
        sparse = ", ".join(name for name, one in FAMILIES.items() if one.config(one.TINY).layers[0].experts)
        raise ConfigError(
            f"a {model_type} has no experts",
            expected=f"--model-type {sparse}",
            received="--num-experts or --experts-per-token",
        )
    ids = ids or {}
    eos = ids.get("eos_token_id")
    config = replace(
        small,
        vocab_size=vocab_size,
        d_model=d_model,
        context_len=sizes.context_len,
        layers=layers,
        embedding_scale=1.0 if small.embedding_scale == 1.0 else math.sqrt(d_model),
        tie_embeddings=tie_embeddings,
        bos_token_id=ids.get("bos_token_id"),
        eos_token_ids=() if eos is None else (eos,),
        pad_token_id=ids.get("pad_token_id"),
        dtype=dtype,
    )
    again: ModelConfig = family.config(family.to_hf(config))
    if (
        replace(again, extra={}, dtype=dtype) != replace(config, extra={}, layers=again.layers)
        or len(again.layers) != depth
    ):
        raise ConfigError(
            f"a {model_type} cannot have these sizes together", remedy="leave out --num-kv-heads or --untie"
        )
    return replace(again, dtype=dtype)


def _layer(small: LayerConfig, d_model: int, num_heads: int, sizes: Sizes) -> LayerConfig:
    """One of the small model's layers in the sizes asked for."""
    mixer, mlp, experts = small.mixer, small.mlp, small.experts
    if mixer is not None:
        mixer = _mixer(mixer, d_model, num_heads, sizes.num_kv_heads or num_heads)
    if mlp is not None:
        mlp = replace(mlp, d_ff=sizes.d_ff or _d_ff(mlp, d_model))
    if mlp is not None and experts is not None:
        chosen = {
            "num_experts": sizes.num_experts or experts.num_experts,
            "experts_per_token": sizes.experts_per_token or experts.experts_per_token,
        }
        experts = replace(experts, **chosen, shared=replace(experts.shared, d_ff=mlp.d_ff) if experts.shared else None)
    beside = small.beside
    if beside is not None:
        beside = _mixer(beside, d_model, num_heads, sizes.num_kv_heads or num_heads)
    return replace(small, mixer=mixer, mlp=mlp, experts=experts, beside=beside)


def _mixer(small: Mixer, d_model: int, num_heads: int, num_kv_heads: int) -> Mixer:
    """Attention of the family's kind with heads of d_model / num_heads; latents as wide as DeepSeek-V2 has them, of 4
    heads for keys and values and of 12 for queries, and half a head that turns (DeepSeek-AI 2024 §2.1.3).
    """
    if isinstance(small, Recurrent):
        return small.resized(d_model, num_heads, d_model // num_heads)
    head_dim, rope = d_model // num_heads, small.rope
    if isinstance(small, LatentAttentionConfig):
        turned = max(head_dim // 4 * 2, 2)
        return replace(
            small,
            num_heads=num_heads,
            kv_lora_rank=min(4 * head_dim, d_model),
            q_lora_rank=None if small.q_lora_rank is None else min(12 * head_dim, d_model),
            qk_nope_head_dim=head_dim,
            qk_rope_head_dim=turned,
            v_head_dim=head_dim,
            rope=None if rope is None else replace(rope, dim=turned, scaling=None),
            scale=None,
        )
    if rope is not None:
        rope = replace(rope, dim=rope.dim * head_dim // small.head_dim, scaling=None)
    return replace(small, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, rope=rope, scale=None)


def _d_ff(mlp: MLPConfig, d_model: int) -> int:
    """4 · d_model; gated, which has three matrices for two, 8/3 · d_model up to a multiple of 16 (Shazeer 2020)."""
    return math.ceil(8 / 3 * d_model / 16) * 16 if mlp.gated else 4 * d_model


def suggested_lr(d_model: int) -> float:
    """AdamW's peak: falls with the square root of the width, through 6e-4 at 768 (Brown et al. 2020, table 2.1)."""
    return round(6e-4 * math.sqrt(768 / d_model), 6)


def suggested_steps(config: ModelConfig, tokens_per_step: int, data_tokens: int) -> int:
    """Twenty tokens for each parameter that a token meets, but no text more than ten times."""
    return max(
        min(TOKENS_OF_PARAMETER * config.num_active_parameters(), MAX_EPOCHS * data_tokens) // tokens_per_step, 1
    )


def flops_per_token(
    config: ModelConfig, context_len: int, *, adapter: int | None = None, head_share: float = 1.0
) -> float:
    """Floating-point operations of forward and backward that training needs, recomputation left out: what MFU counts.

    A weight of a matrix product takes 2 forward, 2 backward for the gradient of what went in, and 2 for its own
    gradient where it learns: 6, or 4 where LoRA has frozen it; each of the ``adapter`` parameters of LoRA, 6. (Beneath
    the first adapter no gradient is needed: not taken off.) Tables that are looked up take none. Attention: 6 · (q_dim
    + z_dim) · context, of which causal attention sees half. ``head_share``: of the places, how many have a target
    that counts, since only these reach the output head.

    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    shapes = weight_shapes(config)
    head = config.vocab_size * config.d_model
    tables = sum(
        math.prod(shapes[name]) for name in ("embed.weight", "pos_embed.weight", "lm_head.weight") if name in shapes
    )
    matrices = config.num_active_parameters() - tables + head_share * head
    attending = [layer.attends for layer in config.layers if layer.attends]
    attention = sum(3 * (mixer.q_dim + mixer.z_dim) * context_len for mixer in attending)
    return (6 * matrices if adapter is None else 4 * matrices + 6 * adapter) + attention
