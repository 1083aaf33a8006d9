"""LoRA adapters in PEFT's format, read and written: ``adapter_config.json`` and ``adapter_model.safetensors``.

Every number in it is checked against the model before anything is made of it, and nothing of it is run.

Source: huggingface/peft, tuners/lora/layer.py (what is computed) and utils/save_and_load.py (names).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, ConfigError, UnsupportedError, WeightsError
from pellucid.base.files import read_json
from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.checkpoint.adapters.lora import (
    ALL_LINEAR,
    HEAD,
    LoraSettings,
    Projection,
    Update,
    is_number,
    projections,
    saved_matches,
)
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import MAX_SHARD_BYTES, stage_safetensors
from pellucid.checkpoint.files.shards import inside
from pellucid.checkpoint.files.staging import Staging
from pellucid.checkpoint.files.torch_bin import open_torch_bin
from pellucid.checkpoint.weights import FLOATS
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families.translation.rules import some

CONFIG, TENSORS, TORCH_BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
BASE_SHA256 = "base_sha256"  # in the safetensors file's metadata: the fingerprint of the model that was adapted
PREFIX = "base_model.model."
MERGE_WITH_PEFT = "merge the adapter with peft (merge_and_unload), and load the whole model"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as read: ``updates`` by the names of our linear maps (``layers.3.attention.q_proj``); ``saved``, whole
    weights that take the place of the base's, by our names.
    """

    settings: LoraSettings
    updates: Mapping[str, Update]
    saved: Mapping[str, Array] = field(default_factory=dict)
    base_sha256: str | None = None  # the fingerprint of the model that was adapted; PEFT writes none


# --- reading ---------------------------------------------------------------------------------------------------------


def read_adapter(folder: str | Path, config: ModelConfig) -> Adapter:
    """The adapter in a folder, for a model of this description; its tensors are views of the mapped file.

    Raises: CheckpointError for files that are damaged; UnsupportedError for kinds of adapters that are not implemented,
    named; WeightsError for tensors that do not fit the model.
    """
    folder = Path(folder)
    described = read_json(inside(folder, CONFIG, folder))
    settings = _settings(described, folder / CONFIG)
    path = tensors_of(folder)
    if path.name == TENSORS:
        file = SafetensorsFile(path)
        stored, metadata = file, file.metadata
    else:
        stored, metadata = open_torch_bin(path), {}
    saved, names = _saved(stored, config, settings, described, path)
    return Adapter(
        settings=settings,
        updates=_updates({n: stored[n] for n in stored if n not in names}, config, settings, described, path),
        saved=saved,
        base_sha256=metadata.get(BASE_SHA256),
    )


def tensors_of(folder: Path) -> Path:
    """The file that holds A and B. Raises: CheckpointError where there is none."""
    for name in (TENSORS, TORCH_BIN):
        if (folder / name).is_file():
            return inside(folder, name, folder)
    raise CheckpointError(
        "the adapter has no tensors", where=folder, expected=TENSORS, remedy="the download is incomplete"
    )


# Keys of adapter_config.json with which something else is computed, and the values with which it is not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (),
    "trainable_token_indices": (),
    "target_parameters": (),
    "layer_replication": (),
    "use_qalora": (),
    "use_bdlora": (),
    "arrow_config": (),
    "alora_invocation_tokens": (),
    "velora_config": (),
    "monteclora_config": (),
    "kasa_config": (),
    # The others (pissa, olora, corda, loftq …) take a part of the base away, so that the file alone is not the
    # difference.
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
}

# Keys that the computation does not depend on: which maps were chosen (the tensors say so), how A and B began, how PEFT
# runs, and who wrote the file. Source: peft.LoraConfig, 0.4 to 0.21.
_READ = (
    *("peft_type", "base_model_name_or_path", "revision", "target_modules", "r", "lora_alpha", "lora_dropout"),
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "ensure_weight_tying"),
)
_HARMLESS = (
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "fan_in_fan_out", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "enable_lora", "merge_weights"),
)
# In keys of a PEFT later than this: names of ways to compute something else.
_CHANGES = (
    *("use_*", "*_config", "*scal*", "*bias*", "*norm*", "*alpha*", "*rank*", "*pattern*", "*init*", "*tying*"),
    *("*module*", "*layer*", "*target*", "*expert*", "*router*", "*head*", "*dora*", "*lora*"),
)


def _check_unread(described: Mapping[str, Any], where: Path) -> None:
    """A key that nobody reads is reported. Raises: UnsupportedError for one that, by its name, changes the result."""
    known = {*_READ, *_HARMLESS, *_PLAIN}
    unread = {key: value for key, value in described.items() if key not in known and value}
    for key, value in unread.items():
        if any(fnmatchcase(key, pattern) for pattern in _CHANGES):
            raise UnsupportedError(
                f"{key[:80]} = {str(value)[:80]!r} is not implemented", where=where, remedy=MERGE_WITH_PEFT
            )
    if unread:
        notice(f"{where}: nothing here reads {some(list(unread), 12)}; they have no effect")


def read_base_name(folder: str | Path) -> tuple[str | None, str | None]:
    """The base that an adapter names, and its revision. Raises: CheckpointError for a file that is damaged."""
    folder = Path(folder)
    described = read_json(inside(folder, CONFIG, folder))
    names = [described.get(key) or None for key in ("base_model_name_or_path", "revision")]
    for name in names:
        if name is not None and not (
            isinstance(name, str) and name.isprintable() and all(len(part.encode()) < 256 for part in name.split("/"))
        ):
            raise CheckpointError(
                "the base must be named by a path or a model's name", where=folder / CONFIG, received=repr(name)[:200]
            )
    return names[0], names[1]


def _settings(described: Mapping[str, Any], where: Path) -> LoraSettings:
    kind = described.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            f"adapters of peft_type {str(kind)[:40]!r} are not implemented", where=where, expected="'LORA'"
        )
    for key, plain in _PLAIN.items():
        value = described.get(key)
        if value and value not in plain:
            raise UnsupportedError(
                f"{key} = {str(value)[:80]!r} is not implemented", where=where, remedy=MERGE_WITH_PEFT
            )
    _check_unread(described, where)
    targets = described.get("target_modules") or ALL_LINEAR
    if not isinstance(targets, str) and not (
        isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    ):
        raise CheckpointError("target_modules must be names", where=where, received=shown(targets))
    try:
        return LoraSettings(
            rank=described.get("r", 8),
            alpha=described.get("lora_alpha", 8),
            targets=targets if isinstance(targets, str) else tuple(targets),
            dropout=described.get("lora_dropout") or 0.0,
            rslora=described.get("use_rslora") is True,
            dora=described.get("use_dora") is True,
            modules_to_save=_modules_to_save(described, where),
        )
    except ConfigError as error:
        raise CheckpointError(
            error.what, where=where, expected=error.expected, received=error.received, remedy="the file is damaged"
        ) from None


def _modules_to_save(described: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    modules = described.get("modules_to_save") or []
    if not isinstance(modules, list) or not all(isinstance(module, str) and module for module in modules):
        raise CheckpointError("modules_to_save must be names", where=where, received=shown(modules))
    return tuple(modules)


def _saved(
    stored: Mapping[str, Array], config: ModelConfig, settings: LoraSettings, described: Mapping[str, Any], where: Path
) -> tuple[dict[str, Array], set[str]]:
    """Whole weights in the adapter's file, by our names, and the names of the tensors that they were made of.

    Raises: WeightsError for one that is absent or does not fit; UnsupportedError for one of two tied tables.
    """
    if not settings.modules_to_save:
        return {}, set()
    try:
        wanted = saved_matches(config, settings.modules_to_save, by_endings=True)
    except ConfigError as error:
        raise WeightsError(error.what, where=where, expected=error.expected) from None
    saved: dict[str, Array] = {}
    names: set[str] = set()
    shapes = weight_shapes(config)
    for match in wanted:
        name = f"{PREFIX}{match.theirs}"
        if "embed.weight" in match.ours and config.tie_embeddings:
            if described.get("ensure_weight_tying") is not True:
                raise UnsupportedError(
                    "of embeddings and head, which are one table, one is changed alone",
                    where=where,
                    received="modules_to_save without ensure_weight_tying",
                    remedy=MERGE_WITH_PEFT,
                )
            names |= {one for one in stored if one == f"{PREFIX}{HEAD}.weight"}
        if name not in stored:
            raise WeightsError(f"{name} is absent, which modules_to_save names", where=where)
        names.add(name)
        for ours, array in zip(match.ours, match.rule.forward(stored[name], match.place), strict=True):
            if array.shape != shapes[ours] or array.dtype not in FLOATS:
                raise WeightsError(
                    f"{name} does not fit the model",
                    where=where,
                    expected=list(shapes[ours]),
                    received=f"{array.dtype} {list(array.shape)}",
                )
            saved[ours] = array
    return saved, names


def _updates(
    stored: Mapping[str, Array], config: ModelConfig, settings: LoraSettings, described: Mapping[str, Any], where: Path
) -> dict[str, Update]:
    """Each map's update, checked against the model's shapes before anything is made of it."""
    ranks, alphas = (_pattern(described, key, where) for key in ("rank_pattern", "alpha_pattern"))
    shapes, unread = weight_shapes(config), set(stored)

    def taken(module: str, out: int, into: int) -> Update | None:
        """The update of a map by this name; None where there is none."""
        names = [f"{PREFIX}{module}.lora_{part}.weight" for part in "AB"]
        present = [name for name in names if name in unread]
        if not present:
            return None
        if len(present) == 1:
            raise WeightsError(
                f"{present[0]} is there without the other half", where=where, remedy="the adapter is incomplete"
            )
        unread.difference_update(names)
        a, b = stored[names[0]], stored[names[1]]
        rank = _matching(ranks, module, settings.rank)
        for name, array, shape in zip(names, (a, b), ((rank, into), (out, rank)), strict=True):
            if array.shape != shape:
                raise WeightsError(
                    f"{name} has the wrong shape",
                    where=where,
                    expected=list(shape),
                    received=list(array.shape),
                    remedy="the adapter was made for another model, or with another rank than adapter_config.json says",
                )
            if array.dtype not in FLOATS:
                raise WeightsError(f"{name} is no floating-point tensor", where=where, received=array.dtype)
        return Update(
            a, b, settings.scale(int(rank), _matching(alphas, module, settings.alpha)), magnitude(module, out)
        )

    def magnitude(module: str, out: int) -> Array | None:
        """The lengths of the rows, of an adapter that learned them; earlier PEFTs named them otherwise."""
        if not settings.dora:
            return None
        name = f"{PREFIX}{module}.lora_magnitude_vector"
        name = name if name in unread else f"{name}.weight"
        if name not in unread:
            raise WeightsError(f"{name} is absent, though use_dora is true", where=where)
        unread.discard(name)
        if stored[name].shape != (out,) or stored[name].dtype not in FLOATS:
            raise WeightsError(
                f"{name} has the wrong shape", where=where, expected=[out], received=list(stored[name].shape)
            )
        return stored[name]

    updates: dict[str, Update] = {}
    for projection in projections(config):
        outs = [shapes[f"{name}.weight"] for name in projection.ours]
        if whole := taken(projection.theirs, sum(out for out, _ in outs), outs[0][1]):
            rows = projection.rows.forward(whole.b, projection.match.place)
            lengths: Sequence[Array | None] = [None] * len(rows)
            if whole.magnitude is not None:
                lengths = projection.parts(whole.magnitude)
            updates |= {
                name: Update(whole.a, part, whole.scale, length)
                for name, part, length in zip(projection.ours, rows, lengths, strict=True)
            }
        for name, shape in zip(projection.ours, outs, strict=True):  # of PEFT on a model of ours
            if own := taken(name, *shape):
                updates[name] = own
    if unread:
        _refuse_tensors(sorted(unread), config, where)
    if not updates:
        raise WeightsError("the adapter holds nothing", where=where)
    return updates


def _refuse_tensors(names: list[str], config: ModelConfig, where: Path) -> None:
    if other := [name for name in names if not name.endswith((".lora_A.weight", ".lora_B.weight"))]:
        raise UnsupportedError(f"{other[0]} is no part of a plain LoRA", where=where, remedy=MERGE_WITH_PEFT)
    tied = ", its output head tied" if config.tie_embeddings and any(f".{HEAD}." in name for name in names) else ""
    raise WeightsError(
        f"a {config.model_type} of {config.num_layers} layers{tied} has no linear map for {names[0]}"
        + (f" and {len(names) - 1} others" if len(names) > 1 else ""),
        where=where,
        remedy="the adapter was made for another model",
    )


def _pattern(described: Mapping[str, Any], key: str, where: Path) -> Mapping[str, float]:
    """``rank_pattern`` or ``alpha_pattern``: a module's name or its last parts → its own number."""
    pattern = described.get(key) or {}
    if not isinstance(pattern, dict) or not all(is_number(value) and 0 < value <= 2**31 for value in pattern.values()):
        raise CheckpointError(f"{key} must map names to positive numbers", where=where, received=shown(pattern))
    for name in pattern:  # PEFT takes a name as a regular expression; we run none that a file holds
        if not all(sign.isalnum() or sign in "._-" for sign in name.removeprefix("^").replace("\\.", ".")):
            raise UnsupportedError(
                f"{key} holds a regular expression, {name[:80]!r}", where=where, expected="plain names of modules"
            )
    return pattern


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The number of the first name that fits, as PEFT looks it up."""
    for wanted, value in pattern.items():
        name = wanted.removeprefix("^").replace("\\.", ".")
        if module == name or (not wanted.startswith("^") and module.endswith("." + name)):
            return value
    return default


# --- writing ---------------------------------------------------------------------------------------------------------


def write_adapter(
    folder: str | Path,
    config: ModelConfig,
    settings: LoraSettings,
    updates: Mapping[str, Update],
    *,
    saved: Mapping[str, Array] | None = None,
    base: str | None = None,
    base_sha256: str | None = None,
) -> None:
    """Write an adapter that ``peft.PeftModel.from_pretrained`` and we load. ``base`` is the name of the model that it
    adapts; ``saved``: whole weights that take the place of its own, by our names.

    A folder saved to before keeps its files until the new ones are whole.

    Raises: WeightsError for updates that have no place in the model; UnsupportedError where maps that Hugging Face's
    model keeps in one were adapted by different A; CheckpointError for a full disk, with the folder as it was.
    """
    folder, arrays = Path(folder), {}
    adapted, ranks, alphas, transposed = [], {}, {}, False
    left = set(updates)
    for projection in projections(config):
        parts = [updates[name] for name in projection.ours if name in left]
        if not parts:
            continue
        left -= set(projection.ours)
        a, b = _joined(projection, updates, config)
        arrays |= {f"{PREFIX}{projection.theirs}.lora_A.weight": a, f"{PREFIX}{projection.theirs}.lora_B.weight": b}
        if parts[0].magnitude is not None:
            lengths = [update.magnitude for update in parts if update.magnitude is not None]
            arrays[f"{PREFIX}{projection.theirs}.lora_magnitude_vector"] = projection.joined(lengths)
        adapted.append(projection.theirs)
        transposed |= projection.is_transposed
        if parts[0].rank != settings.rank:
            ranks[projection.theirs] = parts[0].rank
        if not math.isclose(parts[0].scale, settings.scale(parts[0].rank)):
            alphas[projection.theirs] = _short(parts[0].scale / settings.scale(parts[0].rank, 1.0))
    if left or not adapted:
        raise WeightsError(f"{min(left, default='nothing')} is no linear map that can be adapted", where=folder)
    modules, ties = [], False
    for match in saved_matches(config, settings.modules_to_save) if saved else ():
        whole = match.rule.inverse([(saved or {})[name] for name in match.ours], match.place)
        arrays[f"{PREFIX}{match.theirs}"] = whole
        modules.append(match.theirs.rpartition(".")[0])  # whole: PEFT goes by endings
        if "embed.weight" in match.ours and config.tie_embeddings:  # PEFT keeps a copy for either of its two names
            arrays[f"{PREFIX}{HEAD}.weight"], ties = whole, True
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": _short(settings.alpha),
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "target_modules": _target_modules(config, adapted),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": sorted({*modules}) or None,
        **({"ensure_weight_tying": True} if ties else {}),
    }
    metadata = {"format": "pt"} | ({BASE_SHA256: base_sha256} if base_sha256 else {})
    with Staging(folder) as staging:
        steps = stage_safetensors(staging, TENSORS, arrays, metadata, MAX_SHARD_BYTES)
        steps.append((staging.json(described), CONFIG))
        staging.commit(steps)


def _joined(projection: Projection, updates: Mapping[str, Update], config: ModelConfig) -> tuple[Array, Array]:
    """A and B of one of their maps; rows of B for what was not adapted are zeros."""
    parts = [updates.get(name) for name in projection.ours]
    first = next(update for update in parts if update is not None)
    for update in parts:
        if update is not None and (update.scale != first.scale or not np.array_equal(update.a.data, first.a.data)):
            raise UnsupportedError(
                f"the maps within {projection.theirs} were adapted by different A, "
                "and PEFT's format has one for all of it",
                where=", ".join(projection.ours),
                remedy="merge the adapter, and save the model",
            )
    shapes = weight_shapes(config)
    rows = [
        update.b
        if update is not None
        else first.b.with_data(np.zeros((shapes[f"{name}.weight"][0], first.rank), first.b.data.dtype))
        for name, update in zip(projection.ours, parts, strict=True)
    ]
    return first.a, projection.rows.inverse(rows, projection.match.place)


def _target_modules(config: ModelConfig, adapted: Sequence[str]) -> list[str]:
    """The last parts of the names where they say exactly which modules are meant, else the whole names."""
    leaves = sorted({name.rpartition(".")[2] for name in adapted})
    meant = [projection.theirs for projection in projections(config) if projection.theirs.rpartition(".")[2] in leaves]
    return leaves if len(meant) == len(adapted) else list(adapted)


def _short(number: float) -> int | float:
    """A whole number without its .0: PEFT's alpha is an int."""
    rounded = round(number, 9)
    return int(rounded) if rounded == int(rounded) else number
