"""The model's own C program: its constants in place, its steps in order, named by the tap names.

``source`` puts together the files of ``c/`` (what all models share) and what is written here for this model alone: its
sizes, the table of its layers, and ``forward``, of whose steps only those that this model has are kept. Nothing but
numbers enters the text.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from importlib import resources

from pellucid.config import LayerConfig, ModelConfig, NormConfig
from pellucid.native.formats import FORMATS
from pellucid.native.layout import Layout, Stored, padded
from pellucid.rotary import magnitude

MAX_ROWS = 256  # tokens that one step computes at a time
TAKE_BACK = 32  # more of them than a window needs are kept for guesses that turn out wrong
CHUNK = 512  # positions of the KV cache, as in c/cache.h
KV_CACHES = {"f32": 32, "f16": 16, "int8": 8}
ACTIVATIONS = {"silu": "SILU", "gelu": "GELU", "gelu_tanh": "GELU_TANH", "relu": "RELU", "relu2": "RELU2"}
INCLUDES = "stdatomic stdbool stdint stdio stdlib string math limits pthread sched unistd fcntl errno sys/mman sys/stat"


def ring_of(window: int) -> int:
    """Chunks that a layer with a sliding window keeps: those that a step may reach into, after the longest taking back.
    As in c/slot.h.
    """
    return (window + MAX_ROWS + TAKE_BACK - 2) // CHUNK + 2


def source(config: ModelConfig, layout: Layout, *, kv_cache: str) -> str:
    """run.c as text. ``kv_cache``: how keys and values are kept, one of ``KV_CACHES``."""
    return _source(config, layout, layout.size, kv_cache)


def program(
    config: ModelConfig, layout: Layout, constants: str, size: int, *, kv_cache: str, words: Sequence[str]
) -> str:
    """run.c with a main: ``constants`` describe the vocabulary, ``size`` is that of the parameters file, vocabulary
    included.

    ``words``: the files of the tokenizer, if it is in it; else the program takes and gives token ids.
    """
    parts = [_source(config, layout, size, kv_cache), constants, *(_file(name) for name in ("ids.h", *words, "main.h"))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _source(config: ModelConfig, layout: Layout, size: int, kv_cache: str) -> str:
    used = sorted({_kind(entry) for entry in layout.entries.values() if entry.format in FORMATS})
    products = "".join(f"TILES({name})\n" for name in used)
    table = ", ".join(f"[{name}] = ROW_OF_TILES({name})" for name in used)
    parts = [
        _heading(config),
        "#define _GNU_SOURCE\n" + "\n".join(f"#include <{name}.h>" for name in INCLUDES.split()),
        _sizes(config, layout, size, kv_cache),
        *(_file(name) for name in ("vector.h", "threads.h", "formats.h", "activations.h", "product.h")),
        f"// The formats of this model's weights.\n{products}static TileProduct *const PRODUCTS[][4] = {{{table}}};",
        *(_file(name) for name in ("rows.h", "cache.h")),
        *_cache_files(
            kv_cache, rounded=not any(entry.format in ("float16", "bfloat16") for entry in layout.entries.values())
        ),
        *(_file(name) for name in ("slot.h", "attention.h", "parameters.h", "model.h", "stages.h", "taps.h")),
        _layers(config, layout),
        _forward(config),
        _file("api.h"),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def kept_as(formats: Mapping[str, str]) -> str:
    """How keys and values are kept where nobody says: as exact as the weights are."""
    return "f32" if "float32" in formats.values() else "f16"


def _cache_files(kv_cache: str, *, rounded: bool) -> list[str]:
    """The part that says how keys and values are kept; of 16 bits there are two. bf16 is multiplied as it is, with an
    eighth of f16's precision: no matter beside ``rounded`` activations, but half as much again as all that 16-bit
    weights lose elsewhere.
    """
    if kv_cache == "int8":
        return [_file("cache_int8.h")]
    if kv_cache == "f32" or not rounded:
        return [_file("cache_floats.h")]
    return ["#if BF16_PRODUCTS", _file("cache_bf16.h"), "#else", _file("cache_floats.h"), "#endif"]


def _file(name: str) -> str:
    return (resources.files("pellucid.native") / "c" / name).read_text(encoding="utf-8")


def _heading(config: ModelConfig) -> str:
    heads = config.layers[0].mixer.num_heads
    return f"""
// run.c: a transformer of {config.num_layers} layers, {heads} heads and {config.num_parameters():,} parameters,
// as one program.
//
// Read it from the end: forward() is the model, step by step; each of its steps is a function further up.
// The parameters are in a file of their own, which is mapped into memory. Written by Pellucid from the model's
// description."""


def _real(value: float) -> str:
    """A float constant of C, exact."""
    return f"{float(value).hex()}f"


def _sizes(config: ModelConfig, layout: Layout, size: int, kv_cache: str) -> str:
    layer = config.layers[0]
    a, ropes = layer.mixer, config.ropes
    rope = ropes[0] if ropes else None
    pairs = rope.dim // 2 if rope else 1
    half = rope is None or rope.layout == "half"
    rows = {"D_ROW": config.d_model, "Q_ROW": a.q_dim, "KV_ROW": a.kv_dim, "FF_ROW": layer.mlp.d_ff}
    row_sizes = "\n".join(f"    {name} = {padded(width)}," for name, width in rows.items())
    offsets = {"POS_EMBED": "pos_embed.weight", "ROTARY_FREQUENCIES": "rotary.frequencies"}
    offsets |= {"FINAL_NORM": "final_norm.weight", "FINAL_NORM_BIAS": "final_norm.bias", "HEAD_BIAS": "lm_head.bias"}
    places = "\n".join(
        f"#define {name} ((size_t){layout.entries[weight].offset})"
        for name, weight in offsets.items()
        if weight in layout.entries
    )
    if rope:
        places += f"\n#define FREQUENCIES_ROW {layout.entries['rotary.frequencies'].columns}"
    if rope and rope.scaling and rope.scaling.by_length:
        places += f"\n#define ORIGINAL_LENGTH {rope.scaling.original_context_len}"
        if rope.scaling.kind == "dynamic":
            places += f"\n#define DYNAMIC_FACTOR {float(rope.scaling.factor).hex()}"
            places += f"\n#define ROPE_THETA {float(rope.theta).hex()}"
    return f"""
enum {{
    VOCAB_SIZE = {config.vocab_size},
    D_MODEL = {config.d_model},
    NUM_LAYERS = {config.num_layers},
    NUM_HEADS = {a.num_heads},
    NUM_KV_HEADS = {a.num_kv_heads},
    HEAD_DIM = {a.head_dim},
    D_FF = {layer.mlp.d_ff},
    CONTEXT_LEN = {config.context_len}, // what the model was made for
    MAX_POSITIONS = {config.context_len if config.position != "none" else 2**31 - 1},
    NUM_ROTARY = {max(len(ropes), 1)}, // frequencies that layers may turn q and k by
    ROTARY_PAIRS = {pairs}, // pair j is a head's dimensions {f"j and j + {pairs}" if half else "2j and 2j + 1"}
    ROTARY_APART = {pairs if half else 1},
    ROTARY_STEP = {1 if half else 2},
    MAX_ROWS = {MAX_ROWS}, // tokens worked on at a time
    TAKE_BACK = {TAKE_BACK}, // tokens that a sliding window's cache can take back at least
    MAX_STAGES = {config.num_layers * 48 + 16}, // more than a step has, taps included
    // rows of activations, padded to a multiple of 64 floats:
{row_sizes}
    WIDEST = {max(padded(width) for width in rows.values())},
}};
#define ACTIVATION {ACTIVATIONS[layer.mlp.activation]}
#define ATTENTION_SOFTCAP {_real(a.softcap or 0)} // 0: none
// Bits of a key's or value's number: 32 (float), 16 (bf16 where the processor multiplies that, else f16) or 8.
#define CACHE_BITS {KV_CACHES[kv_cache]}
{places}
#define PARAMETERS_SIZE ((size_t){size})
#define PARAMETERS_KEY {{{", ".join(str(byte) for byte in layout.key)}}}"""


def _kind(entry: Stored) -> str:
    """The format's name in C. Of bf16 products, the gate is the one that suffers most from activations rounded to bf16:
    it takes them as floats.
    """
    return "BF16_EXACT" if entry.format == "bfloat16" and ".gate_proj." in entry.name else FORMATS[entry.format].c_name


def _matrix(layout: Layout, name: str) -> str:
    entry = layout.entries[name]
    return f"{{{_kind(entry)}, {entry.rows}, {entry.columns}, {entry.offset}, {entry.stride}}}"


def _layers(config: ModelConfig, layout: Layout) -> str:
    """The table of where each weight lies."""
    ropes = config.ropes

    def fields(i: int, layer: LayerConfig) -> str:
        parts: list[str] = []
        for path in ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.gate", "mlp.up", "mlp.down"):
            stem, field = f"layers.{i}.{path}_proj", path.partition(".")[2]
            if f"{stem}.weight" in layout.entries:
                parts.append(f".{field}_proj = {_matrix(layout, f'{stem}.weight')}")
            if bias := layout.entries.get(f"{stem}.bias"):
                parts.append(f".{field}_bias = {bias.offset}")
        for path in (*layer.norms, "attention.q_norm", "attention.k_norm"):
            for kind, suffix in (("weight", ""), ("bias", "_bias")):
                if entry := layout.entries.get(f"layers.{i}.{path}.{kind}"):
                    parts.append(f".{path.removeprefix('attention.')}{suffix} = {entry.offset}")
        a = layer.mixer
        parts += [
            f".scale = {_real(a.softmax_scale)}",
            f".window = {a.window or 'INT_MAX'}",
            f".rotary = {ropes.index(a.rope) if a.rope else -1}",
        ]
        return "    {" + ", ".join(parts) + "},"

    table = "\n".join(fields(i, layer) for i, layer in enumerate(config.layers))
    magnitudes = ""
    if ropes:
        numbers = ", ".join(_real(magnitude(rope)) for rope in ropes)
        magnitudes = "// What cos and sin are multiplied by.\n"
        magnitudes += f"static const float ROTARY_MAGNITUDES[NUM_ROTARY] = {{{numbers}}};\n"
    head = (
        _matrix(layout, "embed.weight") + "; // the embedding once more"
        if config.tie_embeddings
        else _matrix(layout, "lm_head.weight") + ";"
    )
    return f"""
// Where each weight lies in the parameters file:
// {{format, rows, columns, offset, bytes from tile to tile}}, or an offset alone.
static const Layer LAYERS[NUM_LAYERS] = {{
{table}
}};
{magnitudes}static const Matrix EMBED = {_matrix(layout, "embed.weight")};
static const Matrix LM_HEAD = {head}"""


def _norm(norm: NormConfig | None, weight: str, bias: str) -> str:
    if norm is None:
        return "{NO_NORM, 0, NULL, NULL}"
    kind = "RMS_NORM" if norm.kind == "rms" else "LAYER_NORM"
    return f"{{{kind}, {_real(norm.eps)}, numbers(m, {weight}), {f'numbers(m, {bias})' if norm.bias else 'NULL'}}}"


def _forward(config: ModelConfig) -> str:
    layer, ropes = config.layers[0], config.ropes
    attention, parallel = layer.mixer, layer.parallel
    names = ("attention_norm", "attention_post_norm", "attention_sum_norm", "mlp_norm", "mlp_post_norm", "mlp_sum_norm")
    read_by_mlp, stream = ("mlp_norm", "resid_pre" if parallel else "resid_mid")
    if parallel and "mlp_norm" not in layer.norms:
        read_by_mlp = "attention_norm"  # what attention reads
    by_head = attention.qk_norm_over == "head"
    scaled, after = layer.residual_scale != 1, attention.qk_norm_at == "after"
    apart = parallel or "attention_post_norm" in layer.norms
    values = {
        "embedding_scale": _real(config.embedding_scale),
        **{name: _norm(layer.norms.get(name), f"layer->{name}", f"layer->{name}_bias") for name in names},
        "read_by_attention": _named(layer, "attention_norm"),
        "attn_in": _normed(layer, "attention_norm", "resid_pre"),
        "read_by_mlp": _named(layer, read_by_mlp),
        "mlp_in": _normed(layer, read_by_mlp, stream),
        "norm_of_attention": _named(layer, "attention_post_norm"),
        "attn_out": _normed(layer, "attention_post_norm", "z W_oᵀ"),
        "stream": "resid_pre + attn_out" if parallel else "resid_mid",
        "q_norm": _norm(attention.qk_norm, "layer->q_norm", "layer->q_norm_bias"),
        "k_norm": _norm(attention.qk_norm, "layer->k_norm", "layer->k_norm_bias"),
        "qk_norm_over": "each head by itself" if by_head else "all heads as one vector",
        "normalize_qk": "normalize_heads" if by_head else "normalize_all_heads",
        "final_norm": _norm(config.final_norm, "FINAL_NORM", "FINAL_NORM_BIAS"),
        "logit_softcap": _real(config.logit_softcap or 0),
        "scale": f", {_real(layer.residual_scale)}" if scaled else "",
        "times": _times(layer.residual_scale),
        "logits": "final W_Vᵀ" + (" + b" if config.head_bias else "") + _times(config.logit_scale),
        "head_bias": "numbers(m, HEAD_BIAS)" if config.head_bias else "NULL",
        "logit_scale": f", {_real(config.logit_scale)}" if config.logit_scale != 1 else "",
    }
    conditions = {
        "embedding_scale": config.embedding_scale != 1.0,
        "positions": config.position != "none",
        "rope": bool(ropes),
        **{name: name in layer.norms for name in names},
        "parallel": parallel,
        "in_turn": not parallel,
        "attention_apart": apart,
        "attention_at_once": not apart,
        "attention_scaled": scaled,
        "attention_apart_in_turn": not parallel and "attention_post_norm" in layer.norms,
        "qk_norm_before": attention.qk_norm is not None and not after,
        "qk_norm_after": attention.qk_norm is not None and after,
        "rope_last": bool(ropes) and not (attention.qk_norm is not None and after),
        "scaled": scaled,
        "mlp_at_once": "mlp_post_norm" not in layer.norms,
        "gated": layer.mlp.gated,
        "logit_softcap": config.logit_softcap is not None,
    }
    return string.Template(_keep(_file("forward.c.in"), conditions)).substitute(values)


def _times(scale: float) -> str:
    """In words: what something is multiplied by, where it is."""
    return f" · {scale:g}" if scale != 1 else ""


def _named(layer: LayerConfig, norm: str) -> str:
    """A norm of the layer as an argument in C."""
    return f"&{norm}" if norm in layer.norms else "&none"


def _normed(layer: LayerConfig, norm: str, value: str) -> str:
    """In words: the norm of a value, or the value where there is no such norm."""
    return f"{norm}({value})" if norm in layer.norms else value


def _keep(template: str, conditions: dict[str, bool]) -> str:
    """The lines whose condition holds; conditions stand between ``//[if name]``, ``//[else]`` and ``//[end]``, and do
    not nest.
    """
    kept, keeping = [], True
    for line in template.splitlines():
        if line.startswith("//[if "):
            keeping = conditions[line.removeprefix("//[if ").removesuffix("]")]
        elif line == "//[else]":
            keeping = not keeping
        elif line == "//[end]":
            keeping = True
        elif keeping:
            kept.append(line)
    return "\n".join(kept)
