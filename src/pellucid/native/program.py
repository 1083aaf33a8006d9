"""The model's own C program: its constants in place, its steps in order, named by the tap names.

``source`` puts together the files of ``c/`` (what all models share) and what is written here for this model alone: its
sizes, the table of its layers, and ``forward``, of whose steps only those that this model has are kept. Nothing but
numbers enters the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pellucid.config import (
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    ShortConvConfig,
)
from pellucid.native.formats import FORMATS
from pellucid.native.kinds import Heads, Kinds, kinds_of, layer_table, maps_of, states_of, widths
from pellucid.native.layout import Layout, padded
from pellucid.native.parts import mixer_gives, parts
from pellucid.native.writing import filled, format_of, keep, matrix, norm, real, scaled, text_of, times
from pellucid.rotary import magnitude

MAX_ROWS = 256  # tokens that one step computes at a time
TAKE_BACK = 32  # more of them than a window needs are kept for guesses that turn out wrong
CHUNK = 512  # positions of the KV cache, as in c/cache.h
# Files of c/ that programs with such a mixer have.
MIXER_FILES = {ShortConvConfig: "short_conv.h", DeltaNetConfig: "delta_net.h"}
STATE_SPACES = (MambaConfig, Mamba2Config)
KV_CACHES = {"f32": 32, "f16": 16, "int8": 8}
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
    texts = [_source(config, layout, size, kv_cache), constants, *map(text_of, ("ids.h", *words, "main.h"))]
    return "\n\n".join(text.strip() for text in texts) + "\n"


def _source(config: ModelConfig, layout: Layout, size: int, kv_cache: str) -> str:
    kinds = kinds_of(config)
    if not kinds.heads:  # none of its layers attends; C has no tables of nothing
        kinds = replace(kinds, heads=(Heads(1, 1, 1, 1, None),))
    having = {
        "experts": any(layer.experts for layer in config.layers),
        "gated": any(getattr(layer.mixer, "gated", False) for layer in config.layers),
        "recurrent": any(states_of(layer.mixer) for layer in config.layers),
        "latent": any(isinstance(layer.mixer, LatentAttentionConfig) for layer in config.layers),
    }
    used = sorted({format_of(entry) for entry in layout.entries.values() if entry.format in FORMATS})
    products = "".join(f"TILES({name})\n" for name in used)
    table = ", ".join(f"[{name}] = ROW_OF_TILES({name})" for name in used)
    texts = [
        _heading(config),
        "#define _GNU_SOURCE\n" + "\n".join(f"#include <{name}.h>" for name in INCLUDES.split()),
        _sizes(config, layout, kinds, size, kv_cache),
        *(text_of(name) for name in ("vector.h", "threads.h", "formats.h", "activations.h", "product.h")),
        f"// The formats of this model's weights.\n{products}static TileProduct *const PRODUCTS[][4] = {{{table}}};",
        *(text_of(name) for name in ("rows.h", "cache.h")),
        _heads(kinds),
        *_cache_files(
            kv_cache, rounded=not any(entry.format in ("float16", "bfloat16") for entry in layout.entries.values())
        ),
        keep(text_of("slot.h"), having),
        text_of("attention.h"),
        _gathers(kinds),
        text_of("parameters.h"),
        keep(text_of("model.h"), having),
        _layers(config, layout, kinds),
        *(text_of(name) for name in ("stages.h", "attend.h", *(("experts.h",) if having["experts"] else ()))),
        keep(text_of("taps.h"), having),
        *([text_of("latent.h")] if having["latent"] else []),
        *([text_of("recurrent.h")] if having["recurrent"] else []),
        *(text_of(name) for kind, name in MIXER_FILES.items() if kind in {type(one.mixer) for one in config.layers}),
        *([text_of("state_space.h")] if any(isinstance(one.mixer, STATE_SPACES) for one in config.layers) else []),
        *parts(config, layout, kinds),
        _forward(config, kinds),
        keep(text_of("api.h"), having),
    ]
    return "\n\n".join(text.strip() for text in texts) + "\n"


def kept_as(formats: Mapping[str, str]) -> str:
    """How keys and values are kept where nobody says: as exact as the weights are."""
    return "f32" if "float32" in formats.values() else "f16"


def _cache_files(kv_cache: str, *, rounded: bool) -> list[str]:
    """The part that says how keys and values are kept; of 16 bits there are two. bf16 is multiplied as it is, with an
    eighth of f16's precision: no matter beside ``rounded`` activations, but half as much again as all that 16-bit
    weights lose elsewhere.
    """
    if kv_cache == "int8":
        return [text_of("cache_int8.h")]
    if kv_cache == "f32" or not rounded:
        return [text_of("cache_floats.h")]
    return ["#if BF16_PRODUCTS", text_of("cache_bf16.h"), "#else", text_of("cache_floats.h"), "#endif"]


def _heading(config: ModelConfig) -> str:
    return f"""
// run.c: a transformer of {config.num_layers} layers and {config.num_parameters():,} parameters, as one program.
//
// Read it from the end: forward() is the model; the two parts of its layers, step by step, stand before it, and each of
// their steps is a function further up.
// The parameters are in a file of their own, which is mapped into memory. Written by Pellucid from the model's
// description."""


def _sizes(config: ModelConfig, layout: Layout, kinds: Kinds, size: int, kv_cache: str) -> str:
    rows = widths(config)
    row_sizes = "\n".join(f"    {name} = {width}," for name, width in rows.items())
    offsets = {"POS_EMBED": "pos_embed.weight", "ROTARY_FREQUENCIES": "rotary.frequencies"}
    offsets |= {"EMBED_NORM": "embed_norm.weight", "EMBED_NORM_BIAS": "embed_norm.bias"}
    offsets |= {"FINAL_NORM": "final_norm.weight", "FINAL_NORM_BIAS": "final_norm.bias", "HEAD_BIAS": "lm_head.bias"}
    places = "\n".join(
        f"#define {name} ((size_t){layout.entries[weight].offset})"
        for name, weight in offsets.items()
        if weight in layout.entries
    )
    if config.ropes:
        places += f"\n#define FREQUENCIES_ROW {layout.entries['rotary.frequencies'].columns}"
    for rope in config.ropes:
        if rope.scaling and rope.scaling.by_length:
            places += f"\n#define ORIGINAL_LENGTH {rope.scaling.original_context_len}"
            if rope.scaling.kind == "dynamic":
                places += f"\n#define DYNAMIC_FACTOR {float(rope.scaling.factor).hex()}"
                places += f"\n#define ROPE_THETA {float(rope.theta).hex()}"
    if mixtures := [layer.experts for layer in config.layers if layer.experts]:
        chosen = max(experts.experts_per_token for experts in mixtures)
        entries = MAX_ROWS * (chosen + any(experts.shared is not None for experts in mixtures))
        row_sizes += f"""
    MAX_EXPERTS = {max(experts.num_experts for experts in mixtures)},
    MAX_CHOSEN = {chosen}, // of them, for each row
    MAX_ENTRIES = {entries}, // rows as often as they go through an expert"""
    if any(states_of(layer.mixer) for layer in config.layers):
        states = max(sum(sum(states_of(layer.mixer).values()) for layer in config.layers), 1)
        values = [one.mixer.value_head_dim for one in config.layers if isinstance(one.mixer, DeltaNetConfig)]
        row_sizes += f"\n    MAX_VALUE_DIM = {padded(max(values), 16)}," if values else ""
        values = [one.mixer.state_size for one in config.layers if isinstance(one.mixer, STATE_SPACES)]
        row_sizes += f"\n    MAX_STATE = {padded(max(values), 16)}," if values else ""
        maps = max(maps_of(layer.mixer)[0] for layer in config.layers)
        places += f"\n#define STATE_SIZE ((size_t){states}) // numbers that a slot keeps of mixers with a state"
        row_sizes += f"\n    NUM_MAPS = {maps}, // of what such a mixer reads"
    return f"""
enum {{
    VOCAB_SIZE = {config.vocab_size},
    D_MODEL = {config.d_model},
    NUM_LAYERS = {config.num_layers},
    CONTEXT_LEN = {config.context_len}, // what the model was made for
    MAX_POSITIONS = {config.context_len if config.position != "none" else 2**31 - 1},
    NUM_HEAD_KINDS = {len(kinds.heads)}, // layers may differ in their heads
    MAX_HEADS = {max(heads.num_heads for heads in kinds.heads)},
    MAX_HEAD_DIM = {max(heads.head_dim for heads in kinds.heads)},
    MAX_VALUE_ROW = {max(padded(heads.value_dim, 16) for heads in kinds.heads)},
    NUM_ROTARY = {max(len(config.ropes), 1)}, // frequencies that layers may turn q and k by
    ROTARY_PAIRS = {max((rope.dim // 2 for rope in config.ropes), default=1)}, // of a head's dimensions, at most
    MAX_ROWS = {MAX_ROWS}, // tokens worked on at a time
    TAKE_BACK = {TAKE_BACK}, // tokens that a sliding window's cache can take back at least
    MAX_STAGES = {config.num_layers * 48 + 16}, // more than a step has, taps included
    // rows of activations, padded to a multiple of 64 floats:
{row_sizes}
    WIDEST = {max(rows.values())},
}};
// Bits of a key's or value's number: 32 (float), 16 (bf16 where the processor multiplies that, else f16) or 8.
#define CACHE_BITS {KV_CACHES[kv_cache]}
{places}
#define PARAMETERS_SIZE ((size_t){size})
#define PARAMETERS_KEY {{{", ".join(str(byte) for byte in layout.key)}}}"""


def _heads(kinds: Kinds) -> str:
    """The kinds of heads, and for each what a layer's part calls."""
    slopes = "".join(
        f"static const float SLOPES_{i}[] = {{{', '.join(map(real, h.slopes))}}}; // what scores lose a position\n"
        for i, h in enumerate(kinds.heads)
        if h.slopes
    )
    table = "\n".join(
        f"    {{{h.num_heads}, {h.num_kv_heads}, {h.head_dim}, {h.value_dim}, {real(h.softcap or 0)}, "
        f"{f'SLOPES_{i}' if h.slopes else 'NULL'}}},"
        for i, h in enumerate(kinds.heads)
    )
    return f"""
{slopes}// The heads of this model's layers.
static const Heads HEADS[NUM_HEAD_KINDS] = {{
{table}
}};"""


def _gathers(kinds: Kinds) -> str:
    arguments = "int count, Attention *w, const uint8_t *keys, const uint8_t *values, float scale, int chunk"
    functions = "\n".join(
        f"static void gather_{i}({arguments}) {{ gather_chunk(&HEADS[{i}], count, w, keys, values, scale, chunk); }}"
        for i in range(len(kinds.heads))
    )
    names = ", ".join(f"gather_{i}" for i in range(len(kinds.heads)))
    return f"{functions}\nstatic Gather *const GATHER[NUM_HEAD_KINDS] = {{{names}}};"


def _layers(config: ModelConfig, layout: Layout, kinds: Kinds) -> str:
    """The table of where each weight lies."""
    struct, table = layer_table(config, layout, kinds)
    rotary = ""
    if config.ropes:
        turns = ", ".join(
            f"{{{rope.dim // 2}, {rope.dim // 2 if rope.layout == 'half' else 1}, {real(magnitude(rope))}}}"
            for rope in config.ropes
        )
        rotary = f"static const Rotary ROTARY[NUM_ROTARY] = {{{turns}}}; // pairs, how far apart, magnitude\n"
    head = (
        matrix(layout, "embed.weight") + "; // the embedding once more"
        if config.tie_embeddings
        else matrix(layout, "lm_head.weight") + ";"
    )
    calls = zip((kinds.mixers, kinds.mlps), kinds.called(config.num_layers), strict=True)
    several = [part.name for parts, call in calls if call.startswith("LAYERS") for part in parts]
    declared = "typedef void Steps(Model *m, Turn *turn, int i);\n"
    declared = declared + f"static Steps {', '.join(several)};\n" if several else ""
    return f"""
{declared}typedef struct {{
{struct}
}} Layer;

// Where each weight lies in the parameters file:
// {{format, rows, columns, offset, bytes from tile to tile}}, or an offset alone.
static const Layer LAYERS[NUM_LAYERS] = {{
{table}
}};
{rotary}static const Matrix EMBED = {matrix(layout, "embed.weight")};
static const Matrix LM_HEAD = {head}"""


def _call(called: str, always: bool) -> str:
    """A part's call; some layers may not have it."""
    if not called:
        return ""
    return f"{called}(m, turn, i);" if always else f"if ({called}) {called}(m, turn, i);"


def _forward(config: ModelConfig, kinds: Kinds) -> str:
    in_turn = {bool(layer.mixer and layer.mlp) and not layer.parallel for layer in config.layers}
    values = {
        "embedding_scale": real(config.embedding_scale),
        "mixer": _call(kinds.called(config.num_layers)[0], all(layer.mixer for layer in config.layers)),
        "mlp": _call(kinds.called(config.num_layers)[1], all(layer.mlp for layer in config.layers)),
        "mixer_gives": " or ".join(sorted({mixer_gives(layer) for layer in config.layers})),
        "mlp_gives": "resid_post" if kinds.mlps else "there is no other part",
        "embed_norm": norm(config.embedding_norm, "EMBED_NORM", "EMBED_NORM_BIAS"),
        "resid_mid_here": " && ".join(
            [
                *(["!LAYERS[i].parallel"] if len({layer.parallel for layer in config.layers}) > 1 else []),
                *(["LAYERS[i].mixer"] if not all(layer.mixer for layer in config.layers) else []),
                *(["LAYERS[i].mlp"] if not all(layer.mlp for layer in config.layers) else []),
            ]
        ),
        "final_norm": norm(config.final_norm, "FINAL_NORM", "FINAL_NORM_BIAS"),
        "logit_softcap": real(config.logit_softcap or 0),
        "logits": "final W_Vᵀ" + (" + b" if config.head_bias else "") + times(config.logit_scale),
        "head_bias": "numbers(m, HEAD_BIAS)" if config.head_bias else "NULL",
        "logit_scale": scaled(config.logit_scale),
    }
    conditions = {
        "embedding_scale": config.embedding_scale != 1.0,
        "positions": config.position != "none",
        "embed_norm": config.embedding_norm is not None,
        "rope": bool(config.ropes),
        "resid_mid": in_turn == {True},
        "resid_mid_in_some": in_turn == {False, True},
        "logit_softcap": config.logit_softcap is not None,
    }
    return filled("forward.c.in", values, conditions)
