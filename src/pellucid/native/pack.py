"""Writing the parameters file: every weight in its format's tiles, one weight in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

import numpy as np

from pellucid.base.array import Array
from pellucid.checkpoint.files.release import release
from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
)
from pellucid.native import finite, rotary
from pellucid.native.formats import FORMATS, own_format, to_tiles
from pellucid.native.layout import (
    HEADER_BYTES,
    Layout,
    gate_of,
    is_matrix,
    is_router,
    is_turned_table,
    padded,
    shapes_of,
)
from pellucid.operations import Places
from pellucid.operations.position import Position
from pellucid.quant import dequantize, is_finite
from pellucid.quant import quantize as quantize_to

QUANTIZED = {"q8": "q8_0", "q4": "q4_0"}


def formats_of(config: ModelConfig, weights: Mapping[str, Array], quantize: str | None) -> dict[str, str]:
    """Each matrix's format: its own, or with ``quantize`` q8 or q4 that of 8 or 4 bits, embeddings and head at 8.

    Matrices that are in blocks already, or whose rows are no whole blocks, stay as they are.
    """
    formats: dict[str, str] = {}
    for name, shape in shapes_of(config).items():
        if not is_matrix(name, shape):
            continue
        array = weights[name]
        formats[name] = "float32" if is_turned(config, name) and array.is_blocks else own_format(array)
        if is_turned(config, name):
            continue  # blocks would lie across its rows
        if quantize and not array.is_blocks and shape[1] % 32 == 0 and not is_router(name):
            formats[name] = "q8_0" if name in ("embed.weight", "lm_head.weight") else QUANTIZED[quantize]
    return formats | _alike(config, formats)


def _alike(config: ModelConfig, formats: Mapping[str, str]) -> dict[str, str]:
    """Experts of one layer are stored alike: where files hold them in several formats, as floats."""
    wide: dict[str, str] = {}
    for i, layer in enumerate(config.layers):
        for part in ("gate", "up", "down") if layer.experts else ():
            names = [f"layers.{i}.mlp.experts.{e}.{part}_proj.weight" for e in range(layer.experts.num_experts)]  # pyright: ignore
            if len({formats.get(name) for name in names}) > 1:
                wide |= dict.fromkeys(names, "float32")
    return wide


def packed(config: ModelConfig, weights: Mapping[str, Array], quantize: str | None) -> dict[str, Array]:
    """The weights as packing writes them: those that it takes to fewer bits in blocks, the others as they are."""
    formats = formats_of(config, weights, quantize)
    rounded = {
        name: quantize_to(np.ascontiguousarray(dequantize(weights[name])), formats[name])
        for name in formats
        if formats[name] != own_format(weights[name])
    }
    return {name: rounded.get(name, weights[name]) for name in weights}


def write_parameters(file: IO[bytes], config: ModelConfig, layout: Layout, weights: Mapping[str, Array]) -> None:
    """The whole file, in order, without seeking."""
    file.write(layout.key.ljust(HEADER_BYTES, b"\0"))
    at = HEADER_BYTES
    ups = {gate_of(name): name for name in layout.entries}
    written: set[str] = set()
    for entry in layout.entries.values():
        if entry.name in written:
            continue  # an up projection that was written with its gate
        assert at <= entry.offset, f"{entry.name} lies where others do"
        file.write(bytes(entry.offset - at))
        if entry.format in FORMATS:
            up = layout.entries[ups[entry.name]] if entry.name in ups else None
            together = [entry, up] if up and entry.offset < up.offset < entry.offset + entry.size else [entry]
            arrays = {part.name: weights[part.name] for part in together}  # some are computed when they are asked for
            tiles = [
                to_tiles(by_head(config, part.name, arrays[part.name]), part.format, part.rows, part.columns).reshape(
                    part.rows // 16, -1
                )
                for part in together
            ]
            values = tiles[0] if len(tiles) == 1 else np.stack(tiles, axis=1)
        else:
            together = [entry]
            arrays = {entry.name: weights[entry.name]} if entry.name in weights else {}
            values = _table(config, weights, entry.name, entry.rows, entry.columns)
        for part in together:
            if part.name in arrays and not is_finite(arrays[part.name]):  # bytes of activations would hide it
                raise finite.in_weight(part.name, arrays[part.name])
        file.write(values.data if values.flags.c_contiguous else values.tobytes())
        for array in arrays.values():
            for source in array.sources:
                release(source)  # it is in the new file: the old one's pages need not stay in memory beside it
        written |= {part.name for part in together}
        at = entry.offset + values.nbytes
    file.write(bytes(layout.size - at))


def is_turned(config: ModelConfig, name: str) -> bool:
    """Whether a weight is the map that the keys of latent attention are made by; see ``layout.shapes_of``."""
    _, _, rest = name.partition("layers.")
    i, _, path = rest.partition(".")
    return path == "attention.k_b_proj.weight" and isinstance(config.layers[int(i)].mixer, LatentAttentionConfig)


def by_head(config: ModelConfig, name: str, array: Array) -> Array:
    """A weight as it lies in the file: that of a latent's maps head by head."""
    _, _, rest = name.partition("layers.")
    i, _, path = rest.partition(".")
    mixer = config.layers[int(i)].mixer if path else None
    if not isinstance(mixer, LatentAttentionConfig) or path.split(".")[1] not in ("k_b_proj", "v_b_proj"):
        return array
    if is_turned(config, name):
        array = Array.from_numpy(dequantize(array)) if array.is_blocks else array
        heads = array.data.reshape(mixer.num_heads, mixer.qk_nope_head_dim, -1).transpose(0, 2, 1)
    else:
        heads = array.data.reshape(mixer.num_heads, mixer.v_head_dim, -1)
    whole = np.zeros((mixer.num_heads, padded(heads.shape[1], 16), heads.shape[2]), heads.dtype)
    whole[:, : heads.shape[1]] = heads
    rows = whole.reshape(-1, whole.shape[-1])
    shape = (len(rows), mixer.qk_nope_head_dim if is_turned(config, name) else mixer.kv_lora_rank)
    return Array(array.dtype, shape, rows)


def _table(config: ModelConfig, weights: Mapping[str, Array], name: str, rows: int, columns: int) -> np.ndarray:
    """A vector or position table as rows of float32, padded with zeros."""
    if name == "rotary.frequencies":
        values = np.zeros((rows, columns), np.float32)
        turns = [row for rope in config.ropes for row in np.atleast_2d(rotary.frequencies(rope))]
        for row, frequencies in zip(values, turns, strict=True):
            row[: len(frequencies)] = frequencies
    elif name == "pos_embed.weight" and config.position == "sinusoidal":
        values = Position(width=config.d_model).reference([], {}, Places.whole(np.arange(rows)))
    elif name not in weights:  # of a norm without a weight
        values = np.ones(shapes_of(config)[name], np.float32)
    else:
        values = dequantize(weights[name])
        if is_turned_table(name):
            values = values.T
        if offset := _offset(config, name):
            values = values + np.float32(offset)
    out = np.zeros((rows, columns), np.float32)
    out[:, : values.shape[-1]] = values
    return out


def _offset(config: ModelConfig, name: str) -> float:
    """What γ has beyond a norm's weight; 0 for all else."""
    path, _, leaf = name.rpartition(".")
    if leaf != "weight" or not path.endswith("norm"):
        return 0.0
    if path in ("embed_norm", "final_norm"):
        norm = config.embedding_norm if path == "embed_norm" else config.final_norm
    else:
        _, number, part = path.split(".", 2)
        layer = config.layers[int(number)]
        kind, field = _NORMS_OF_MIXERS.get(part.rpartition(".")[2], (None, ""))
        own = next((mixer for mixer in (layer.mixer, layer.beside) if kind and isinstance(mixer, kind)), None)
        norm = getattr(own, field) if "." in part else layer.norms[part]
    return norm.offset if norm else 0.0


# The last name of a norm's weight within a mixer → the mixer, and its field.
_NORMS_OF_MIXERS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("q_norm", "k_norm"), (AttentionConfig, "qk_norm")),
    **dict.fromkeys(("q_a_norm", "kv_a_norm"), (LatentAttentionConfig, "latent_norm")),
    **dict.fromkeys(("dt_low_norm", "b_norm", "c_norm"), (MambaConfig, "inner_norm")),
    "z_norm": (DeltaNetConfig, "norm"),
    "norm": (Mamba2Config, "norm"),
}
