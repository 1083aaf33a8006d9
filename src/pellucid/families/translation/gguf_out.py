"""A description → GGUF's metadata, so that llama.cpp, and we, read the same description back.

Every key that a description determines is offered; a family's own reader says which of them it reads, and what it makes
of them is compared with the description, part by part. So a file is written only where it says the whole model.

Source: llama.cpp gguf-py/gguf/constants.py (names), convert_hf_to_gguf.py (what the converter writes of a model).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import PellucidError, UnsupportedError, WeightsError
from pellucid.config import AttentionConfig, ModelConfig, NormConfig, RopeConfig, weight_shapes
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.rules import Match, matches
from pellucid.rotary import frequencies, magnitude

TOLERANCE = 1e-6  # a number is stored as float32
# Keys that llama.cpp's converter writes of every model, and some of its readers ask for; without the architecture.
ALWAYS = {
    "vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
    "rope.freq_base",
}  # fmt: skip
NOT_THE_MODEL = ("model_type", "extra", "dtype", "bos_token_id", "eos_token_ids", "pad_token_id")


@dataclass(frozen=True)
class Outline:
    """What a model is in GGUF: ``metadata`` of the architecture, the ``matches`` of its tensors in order, and
    ``tensors`` that are settings, float32.
    """

    architecture: str
    metadata: dict[str, Any]
    matches: tuple[Match, ...]
    tensors: dict[str, np.ndarray]


def outline(config: ModelConfig, readers: Mapping[str, Any]) -> Outline:
    """How the model is written: as its own family's architecture, or, where llama.cpp has none for that, as another
    that computes the same. ``readers``: model_type → family.

    Raises: UnsupportedError naming what no architecture of llama.cpp can say.
    """
    own = readers[config.model_type].GGUF
    others = {id(family.GGUF): family for family in readers.values() if family.GGUF and family.GGUF.for_others}
    families = [readers[config.model_type]] if own else list(others.values())
    first: PellucidError | None = None
    for family in families:
        try:
            return _outline(config, family)
        except PellucidError as error:  # another family's keys, where they are not enough for it
            if own:
                raise
            first = first or error
    assert first is not None
    raise UnsupportedError(
        f"llama.cpp has no architecture for this {config.model_type}",
        where="GGUF",
        received=f"as {families[0].GGUF.architecture}: {first.what}",
        remedy="write a folder instead: pellucid convert MODEL FOLDER",
    )


def _outline(config: ModelConfig, family: Any) -> Outline:
    reader: GGUF = family.GGUF.of(any(layer.experts for layer in config.layers))
    every = _needed(matches(config, reader.weights))
    settings = {name: Array.from_numpy(values) for name, values in _settings(config).items()}
    tensors = _shapes(config, every) | settings
    offered = {f"{reader.architecture}.{key}": value for key, value in _offered(config).items() if value is not None}
    if reader.write is not None:
        offered |= {f"{reader.architecture}.{key}": value for key, value in reader.write(config).items()}
    offered = {key: value for key, value in offered.items() if value is not None}
    metadata = Metadata(_as_stored(offered), "GGUF")
    family.config(reader.hf(metadata, tensors))
    kept = {
        key: value
        for key, value in offered.items()
        if metadata.was_read(key) or key.removeprefix(f"{reader.architecture}.") in ALWAYS
    }
    kept = _without_refused(kept, reader, metadata)
    again = family.config(reader.hf(Metadata(_as_stored(kept), "GGUF"), tensors))
    if lost := difference(config, again):
        raise UnsupportedError(
            f"llama.cpp's {reader.architecture} cannot say this model's {lost}",
            where="GGUF",
            remedy="write a folder instead: pellucid convert MODEL FOLDER",
        )
    _check_tensors(reader, tensors)
    wide = next((layer.attention.q_dim for layer in config.layers if layer.attention), config.d_model)
    if reader.square and wide != config.d_model:
        raise UnsupportedError(
            f"llama.cpp's {reader.architecture} has heads that are together as wide as the model",
            where="GGUF",
            expected=config.d_model,
            received=wide,
        )
    if not reader.grouped and any(a.num_heads != a.num_kv_heads for layer in config.layers if (a := layer.attention)):
        raise UnsupportedError(f"llama.cpp's {reader.architecture} has keys and values for every head", where="GGUF")
    known = {match.theirs for match in matches(again, reader.weights)} | set(reader.ignored)
    if strange := [name for name in tensors if name not in known]:
        raise UnsupportedError(f"llama.cpp's {reader.architecture} has no place for {strange[0]}", where="GGUF")
    return Outline(reader.architecture, kept, tuple(every), _settings(config))


def _check_tensors(reader: GGUF, tensors: Iterable[str]) -> None:
    """What llama.cpp itself would not open. Raises: UnsupportedError naming the tensor."""
    names = list(tensors)
    for pattern in reader.lacks:
        if strange := fnmatch.filter(names, pattern):
            raise UnsupportedError(f"llama.cpp's {reader.architecture} has no place for {strange[0]}", where="GGUF")
    for pattern in reader.needs:
        if not fnmatch.filter(names, pattern):
            raise UnsupportedError(f"llama.cpp's {reader.architecture} does not open without {pattern}", where="GGUF")


def _needed(every: Iterable[Match]) -> list[Match]:
    """Each of our weights under one name: of rules that name it in several ways, the first."""
    kept: list[Match] = []
    there: set[str] = set()
    for match in every:
        if not there.issuperset(match.ours):
            kept.append(match)
            there.update(match.ours)
    return kept


def _shapes(config: ModelConfig, every: Iterable[Match]) -> dict[str, Array]:
    """Their tensors, all of zeros that take no memory: names and shapes are what a reader looks at."""
    ours = weight_shapes(config)
    shapes = {match.theirs: shape_of(match, [ours[name] for name in match.ours]) for match in every}
    return {name: Array("float32", shape, np.broadcast_to(np.float32(0), shape)) for name, shape in shapes.items()}


def shape_of(match: Match, ours: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of their tensor, made of tensors of these shapes; no tensor of that size is made."""

    def made(*shapes: tuple[int, ...]) -> tuple[int, ...]:
        return match.rule.inverse(
            [Array.from_numpy(np.zeros(shape, np.float32)) for shape in shapes], match.place
        ).shape

    if len(ours[0]) == 1:
        return made(*ours)
    # Rows move as a whole: of one and of two columns, the axis that grows is that of columns.
    try:
        one, two = (made(*((*shape[:-1], columns) for shape in ours)) for columns in (1, 2))
    except WeightsError:  # columns are moved as well
        return made(*ours)
    return tuple(a if a == b else a * ours[0][-1] for a, b in zip(one, two, strict=True))


def _offered(config: ModelConfig) -> dict[str, Any]:
    """Every key that the description determines, without the architecture; None: not there."""
    attention = [layer.attention for layer in config.layers if layer.attention]
    norm = config.final_norm or next((norm for layer in config.layers for norm in layer.norms.values()), None)
    layer = config.layers[0]
    experts = next((layer.experts for layer in config.layers if layer.experts), None)
    sparse = next((layer.mlp for layer in config.layers if layer.experts), None)
    offered: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_len,
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "feed_forward_length": _width(config),
        "use_parallel_residual": layer.parallel,
        "residual_scale": layer.residual_scale,
        "embedding_scale": config.embedding_scale,
        "logit_scale": config.logit_scale,
        "final_logit_softcapping": config.logit_softcap,
    }
    if norm:
        offered |= {f"attention.layer_norm_{kind}epsilon": norm.eps for kind in ("rms_", "")}
    if experts and sparse:
        dense = [i for i, layer in enumerate(config.layers) if not layer.experts]
        leading = next(i for i, layer in enumerate(config.layers) if layer.experts)
        step = 1 + next((i for i, layer in enumerate(config.layers[leading + 1 :]) if layer.experts), 0)
        offered |= {
            "expert_count": experts.num_experts,
            "expert_used_count": experts.experts_per_token,
            "expert_feed_forward_length": sparse.d_ff,
            "expert_shared_feed_forward_length": experts.shared.d_ff if experts.shared else None,
            "expert_shared_count": experts.shared.d_ff // sparse.d_ff if experts.shared else 0,
            "expert_weights_norm": experts.normalize,
            "expert_weights_scale": experts.scale,
            "expert_gating_func": {"softmax": 1, "sigmoid": 2}.get(experts.scores),
            "expert_group_count": experts.num_groups,
            "expert_group_used_count": experts.groups_per_token,
            "leading_dense_block_count": leading if dense == list(range(leading)) else 0,
            "interleave_moe_layer_step": step,
        }
    if attention:
        offered |= _of_attention(attention)
        # what does not attend has no heads of keys and values
        heads = _of_all(layer.attention.num_kv_heads if layer.attention else 0 for layer in config.layers)
        offered["attention.head_count_kv"] = heads
    if looking := [layer.attends for layer in config.layers if layer.attends]:
        offered |= _of_rotation(config, looking)
    return offered | _of_states(config)


def _of_states(config: ModelConfig) -> dict[str, Any]:
    """Of mixers with a state: a convolution's tokens; Mamba's channels, or Mamba-2's heads under the names of those."""
    short = next((layer.mixer for layer in config.layers if layer.mixer and layer.mixer.name == "short_conv"), None)
    if short is not None:
        return {"shortconv.l_cache": getattr(short, "width", None)}
    mixer: Any = next((mixer for mixer in config.mixers if hasattr(mixer, "state_size")), None)
    if mixer is None:
        return {}
    heads = getattr(mixer, "num_heads", None)
    return {
        "ssm.conv_kernel": mixer.width,
        "ssm.inner_size": mixer.channels if heads is None else heads * mixer.head_dim,
        "ssm.state_size": mixer.state_size,
        "ssm.time_step_rank": mixer.dt_rank if heads is None else heads,
        "ssm.group_count": getattr(mixer, "num_groups", None),
        "ssm.dt_b_c_rms": getattr(mixer, "inner_norm", None) is not None,
    }


def _width(config: ModelConfig) -> Any:
    """Neurons of the MLP: of layers that are dense, where some are; one number where they agree."""
    dense = [layer.mlp.d_ff for layer in config.layers if layer.mlp and not layer.experts]
    widths = [layer.mlp.d_ff if layer.mlp else 0 for layer in config.layers]
    return _of_all(dense) if dense and any(layer.experts for layer in config.layers) else _of_all(widths)


def _of_attention(attention: list[AttentionConfig]) -> dict[str, Any]:
    first = attention[0]
    window = next((layer.window for layer in attention if layer.window), None)
    return {
        "attention.head_count": _of_all(layer.num_heads for layer in attention),
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        "attention.scale": first.softmax_scale,
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": [bool(layer.window) for layer in attention] if window else None,
        "attention.clamp_kqv": first.clip,
        "attention.max_alibi_bias": first.alibi,
        "attn_logit_softcapping": first.softcap,
    }


def _of_rotation(config: ModelConfig, attention: list[AttentionConfig]) -> dict[str, Any]:
    """The rotation of layers that see all is the model's; that of layers with a window has a base of its own."""
    far = far_rope(config)
    if far is None:
        return {}
    near = next((layer.rope for layer in attention if layer.window and layer.rope), far)
    written: dict[str, Any] = {
        "rope.dimension_count": far.dim,
        "rope.freq_base": far.theta,
        "rope.freq_base_swa": near.theta,
    }
    scaling = far.scaling
    if scaling is None or scaling.kind in ("llama3", "factors"):  # these are tensors
        return written
    if scaling.kind == "longrope":
        return written | {
            "rope.scaling.original_context_length": scaling.original_context_len,
            "rope.scaling.attn_factor": magnitude(far),
        }
    written |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    if scaling.kind == "yarn":
        plain = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
        written |= {
            "rope.scaling.original_context_length": scaling.original_context_len,
            "rope.scaling.attn_factor": magnitude(far) / plain,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
        }
    return written


def far_rope(config: ModelConfig) -> RopeConfig | None:
    """The rotation of layers that see all tokens; of those with a window, where there are no others."""
    attention = [layer.attends for layer in config.layers if layer.attends and layer.attends.rope]
    return next((layer.rope for layer in attention if not layer.window), attention[0].rope if attention else None)


def _settings(config: ModelConfig) -> dict[str, np.ndarray]:
    """Tensors that are settings: what each rotary frequency is divided by."""
    rope = far_rope(config)
    scaling = rope.scaling if rope else None
    if rope and scaling is None and rope.pairs is not None:  # the others are divided by so much that they stand still
        return {"rope_freqs.weight": np.where(np.arange(rope.dim // 2) < rope.pairs, 1.0, 1e30).astype(np.float32)}
    if rope is None or scaling is None:
        return {}
    if scaling.kind == "longrope":
        lists = {"short": scaling.short_factors, "long": scaling.long_factors}
        return {f"rope_factors_{name}.weight": np.array(factors, np.float32) for name, factors in lists.items()}
    if scaling.kind == "factors":
        return {"rope_freqs.weight": np.array(scaling.short_factors, np.float32)}
    if scaling.kind == "llama3":
        plain = frequencies(replace(rope, scaling=None)).astype(np.float64)
        return {"rope_freqs.weight": (plain / frequencies(rope)).astype(np.float32)}
    return {}


def _of_all(values: Iterable[Any]) -> Any:
    """One value where all layers have the same, else the list."""
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else values


def _as_stored(offered: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a reader of the file gets them: floats through float32, lists as arrays."""

    def stored(value: Any) -> Any:
        if isinstance(value, float):
            return float(np.float32(value))
        if isinstance(value, list) and value and not isinstance(value[0], str):
            return np.array(value, np.float32 if isinstance(value[0], float) else np.int32)
        return value

    return {key: stored(value) for key, value in offered.items()}


def _without_refused(kept: dict[str, Any], reader: GGUF, metadata: Metadata) -> dict[str, Any]:
    """Without the keys that the reader has no use for and would refuse, or name as unknown; but llama.cpp asks for the
    width of the MLP of every model.
    """
    for key in list(kept):
        if metadata.was_read(key) or key == f"{reader.architecture}.feed_forward_length":
            continue
        try:
            unread = Metadata({key: kept[key]}, "GGUF").unread(reader.architecture, reader.harmless)
        except PellucidError:
            unread = [key]
        if unread:
            del kept[key]
    return kept


def difference(ours: ModelConfig, again: ModelConfig) -> str | None:
    """Where two descriptions compute something else, ``layers.0.mixer.window = 8 (it would be read as None)``; None
    where nowhere. How a rotation is said does not count, but what it makes of the frequencies; nor a norm's offset,
    which its weights are written without.
    """
    return _difference("", ours, again)


def _difference(name: str, ours: Any, theirs: Any) -> str | None:
    if isinstance(ours, RopeConfig) and isinstance(theirs, RopeConfig):
        return None if _same_rotation(ours, theirs) else f"{name} = {ours!r} (it would be read as {theirs!r})"
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        pairs: Iterator[tuple[str, Any, Any]] = (
            (f"{name}.{i}", *pair) for i, pair in enumerate(zip(ours, theirs, strict=True))
        )
    elif is_dataclass(ours) and type(ours) is type(theirs):
        pairs = (
            (f"{name}.{field}".lstrip("."), *(_value(one, field) for one in (ours, theirs)))
            for field in _compared(ours)
        )
    elif ours == theirs or (
        isinstance(ours, (int, float))
        and isinstance(theirs, (int, float))
        and math.isclose(ours, theirs, rel_tol=TOLERANCE)
    ):
        return None
    else:
        return f"{name} = {ours!r} (it would be read as {theirs!r})"
    return next((lost for part, a, b in pairs if (lost := _difference(part, a, b))), None)


def _compared(one: Any) -> list[str]:
    without = NOT_THE_MODEL if isinstance(one, ModelConfig) else ("offset",) if isinstance(one, NormConfig) else ()
    return [field.name for field in fields(one) if field.name not in without]


def _value(one: Any, field: str) -> Any:
    return one.softmax_scale if isinstance(one, AttentionConfig) and field == "scale" else getattr(one, field)


def _same_rotation(a: RopeConfig, b: RopeConfig) -> bool:
    if (a.dim, a.layout) != (b.dim, b.layout) or not math.isclose(magnitude(a), magnitude(b), rel_tol=TOLERANCE):
        return False
    kinds = {rope.scaling.kind for rope in (a, b) if rope.scaling and rope.scaling.by_length}
    if "dynamic" in kinds:
        return False
    original = {rope.scaling.original_context_len for rope in (a, b) if kinds and rope.scaling}
    if len(original) > 1:
        return False
    lengths = np.array([1, *(2 * length for length in original if length)]) if kinds else None
    tables = [frequencies(rope, lengths if rope.scaling and rope.scaling.by_length else None) for rope in (a, b)]
    return bool(np.allclose(tables[0], tables[1], rtol=TOLERANCE, atol=0))
