"""A model's description in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pellucid.base.errors import PellucidError
from pellucid.checkpoint.open import Checkpoint
from pellucid.cli.terminal.numbers import count, ranges
from pellucid.config import (
    ExpertsConfig,
    LatentAttentionConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    Mixer,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    RopeConfig,
    ShortConvConfig,
)

ACTIVATIONS = {
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu_tanh": "GELU (tanh)",
    "relu": "ReLU",
    "relu2": "ReLU²",
    "xielu": "xIELU",
}
KINDS = {
    "SentencePieceTokenizer": "SentencePiece",
    "Llama2cTokenizer": "SentencePiece, as llama2.c writes it",
    "ChatGLMTokenizer": "SentencePiece, ChatGLM's",
}
POSITIONS = {
    "none": "",
    "learned": "learned, added to the embeddings",
    "sinusoidal": "sinusoidal, added to the embeddings",
}


def describe(config: ModelConfig) -> list[tuple[str, str]]:
    """(part, words) in the order in which a token meets them."""
    lines = [
        ("text", f"a vocabulary of {config.vocab_size:,} tokens; up to {config.longest_context:,} tokens at a time")
    ]
    lines.append(("stream", f"{config.num_layers} layers, {config.d_model:,} numbers wide; {_order(config)}"))
    mixed = any(layer.attends is None for layer in config.layers)
    if POSITIONS[config.position]:
        lines.append(("positions", POSITIONS[config.position]))
    lines += _by_layer("mixer" if mixed else "attention", config, mixers)
    if config.ropes:
        lines += _by_layer("positions", config, lambda layer: rope(getattr(layer.mixer, "rope", None)))
    if any(layer.mlp for layer in config.layers):
        lines += _by_layer("MLP", config, lambda layer: mlp(layer.mlp, config.d_model, layer.experts))
    lines += _by_layer("norms", config, lambda layer: norm(next(iter(layer.norms.values()))))
    head = "the embeddings, transposed (tied)" if config.tie_embeddings else "a matrix of its own"
    lines.append(("output", head + (f"; logits capped at ±{config.logit_softcap:g}" if config.logit_softcap else "")))
    return lines


def _by_layer(part: str, config: ModelConfig, words: Callable[[LayerConfig], str]) -> Iterable[tuple[str, str]]:
    """One line where all layers are alike in this part, else one for each kind."""
    kinds: dict[str, list[int]] = {}
    for number, layer in enumerate(config.layers):
        kinds.setdefault(words(layer), []).append(number)
    for text, numbers in kinds.items():
        yield part, text if len(kinds) == 1 else f"layers {ranges(numbers)}: {text}"


def _order(config: ModelConfig) -> str:
    both = [layer for layer in config.layers if layer.mixer and layer.mlp]
    if len(both) < config.num_layers:
        return "a mixer or an MLP a layer" if any(layer.mlp for layer in config.layers) else "a mixer a layer"
    orders = {(_part("attention", layer.mixer_norms), _part("MLP", layer.mlp_norms)) for layer in both}
    if len(orders) > 1:
        return "layers of several orders of norms"
    ((mixed, made),) = orders
    if config.layers[0].parallel:
        return f"each adds {mixed} and {made}, both of the stream as it came in"
    return f"each adds {mixed}, then {made}"


def _part(name: str, norms: PartNorms) -> str:
    read = "norm(x)" if norms.before else "x"
    made = f"norm({name}({read}))" if norms.after else f"{name}({read})"
    return f"{made}, and norms the sum" if norms.sum else made


def mixers(layer: LayerConfig) -> str:
    beside = f"; beside it {attention(layer.beside)}" if layer.beside else ""
    return attention(layer.mixer) + beside


def attention(config: Mixer | None) -> str:
    """What carries information from token to token, attention or another."""
    if config is None:
        return "none"
    if isinstance(config, MambaConfig | Mamba2Config):
        return state_space(config)
    if isinstance(config, ShortConvConfig):
        return f"a gated convolution of {config.channels:,} channels over {config.width} tokens"
    if isinstance(config, LatentAttentionConfig):
        return latent(config)
    shared = config.num_heads // config.num_kv_heads
    text = f"{config.num_heads} heads of {config.head_dim}"
    if shared > 1:
        text += f", {config.num_kv_heads} key-value heads (each serves {shared})"
    if config.qkv_bias or config.o_bias:
        maps = (("q, k, v", config.qkv_bias), ("output", config.o_bias))
        text += f"; biases on {' and '.join(name for name, biased in maps if biased)}"
    if config.qk_norm:
        text += "; q and k normed by head"
    if config.window:
        text += f"; sees {config.window:,} positions back"
    if config.sinks:
        text += "; each head has a sink"
    return text


def state_space(config: MambaConfig | Mamba2Config) -> str:
    if isinstance(config, MambaConfig):
        text = f"Mamba, {config.channels:,} channels, a state of {config.state_size} numbers each"
        return text + (f", steps from {config.dt_rank} numbers" + ("; B, C and Δ normed" if config.inner_norm else ""))
    text = f"Mamba-2, {config.num_heads} heads of {config.head_dim}, {config.state_size} numbers of state for each"
    return text + (f"; {config.num_groups} groups of heads share B and C" if config.num_groups > 1 else "")


def latent(config: LatentAttentionConfig) -> str:
    text = f"{config.num_heads} heads of {config.head_dim}, of which {config.qk_rope_head_dim} turn; values of "
    text += f"{config.v_head_dim}; keys and values made of a latent of {config.kv_lora_rank}, which is what is kept"
    if config.q_lora_rank:
        text += f"; queries of one of {config.q_lora_rank}"
    if config.latent_bias or config.o_bias:
        maps = (("latents", config.latent_bias), ("output", config.o_bias))
        text += f"; biases on {' and '.join(name for name, biased in maps if biased)}"
    return text + (f"; sees {config.window:,} positions back" if config.window else "")


def rope(config: RopeConfig | None) -> str:
    if config is None:
        return "none"
    text = f"rotary, {config.dim} dimensions of each head ({config.layout}), θ {config.theta:,.0f}"
    return text + (f", scaled ({config.scaling.kind}, × {config.scaling.factor:g})" if config.scaling else "")


def mlp(config: MLPConfig | None, d_model: int, experts: ExpertsConfig | None = None) -> str:
    if config is None:
        return "none"
    if experts is not None:
        shared = (
            f"; a shared one ({experts.shared.d_ff:,}{', gated' if experts.shared_gated else ''}) for all"
            if experts.shared
            else ""
        )
        routed = f"{experts.num_experts} experts, {experts.experts_per_token} for each token{router(experts)}"
        return f"{routed}, each {mlp(config, d_model)}{shared}"
    gated = "gated " if config.gated else ""
    text = f"{d_model:,} → {config.d_ff:,} → {d_model:,}, {gated}{ACTIVATIONS[config.activation]}"
    return text + (", biases" if config.bias else "")


def router(config: ExpertsConfig) -> str:
    """How they are chosen, where it is not by the largest softmax alone."""
    words = [] if config.scores == "softmax" else [f"by {config.scores}"]
    words += ["corrected by a bias"] if config.correction_bias else []
    words += [f"of {config.groups_per_token} of {config.num_groups} groups"] if config.num_groups > 1 else []
    words += [f"weighed × {config.scale:g}"] if config.scale != 1 else []
    return f" ({', '.join(words)})" if words else ""


def norm(config: NormConfig) -> str:
    return f"{'RMSNorm' if config.kind == 'rms' else 'LayerNorm'}, ε {config.eps:g}" + (
        "" if config.bias or config.kind == "rms" else ", no bias"
    )


def describe_tokenizer(checkpoint: Checkpoint) -> dict[str, str]:
    """The tokenizer that belongs to a checkpoint, in words; what is wrong with it, where it cannot be read."""
    from pellucid.auto import tokenizer_of
    from pellucid.text.chat import NativeChat

    try:
        tokenizer = tokenizer_of(checkpoint)
    except PellucidError as error:
        return {"tokenizer": f"none: {error.what}"}
    kind = KINDS.get(type(tokenizer).__name__, "tokenizer.json" if tokenizer.cleans_up else "BPE")
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    named = ", ".join(f"{name.removesuffix('_token')} {token}" for name, token in tokenizer.special_tokens_map.items())
    template = (
        "its own, written in ids" if isinstance(tokenizer, NativeChat) else "yes" if tokenizer.chat_template else "none"
    )
    return {
        "tokenizer": f"{kind}, {len(tokenizer):,} tokens, {len(special)} of them special",
        "special": named or "none",
        "chat template": template,
    }


def headline(config: ModelConfig) -> str:
    """``llama: a decoder-only transformer of 134.5 M parameters``."""
    return f"{config.model_type}: a decoder-only transformer of {parameters(config)}"


def parameters(config: ModelConfig) -> str:
    """``46.7 B parameters, 12.9 B of them for each token``; the second part where there are experts."""
    every, active = config.num_parameters(), config.num_active_parameters()
    return f"{count(every)} parameters" + (f", {count(active)} of them for each token" if active != every else "")
