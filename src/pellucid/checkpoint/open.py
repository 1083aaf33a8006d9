"""A checkpoint on disk → its description and its weights, whatever the format.

Nothing but headers is read: a weight's bytes come from the disk when someone looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, ModelNotFoundError, PellucidError, UnsupportedError
from pellucid.base.files import read_json
from pellucid.base.notice import notice
from pellucid.checkpoint.files import llama2c
from pellucid.checkpoint.files.distributed import DistributedTensors, model_weights
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.shards import inside, open_sharded
from pellucid.checkpoint.files.torch_bin import open_torch_bin
from pellucid.checkpoint.find import Kind, Location, find
from pellucid.checkpoint.quantized.read import (
    LogicalTensors,
    method_of,
    quantization_of,
    refuse_unsaid,
    without_quantization,
)
from pellucid.checkpoint.quantized.settings import REMEDY
from pellucid.checkpoint.weights import Weights
from pellucid.config import AttentionConfig, ModelConfig
from pellucid.families import family_of, family_of_gguf, unread_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.rules import Match, Rule, matches, some
from pellucid.families.translation.text_part import is_of_images, text_part


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk.

    ``stored`` is what the files hold: their names, dtypes and shapes. ``weights`` is what an executor takes: our names,
    each Array made when it is asked for, and its shape checked then.
    """

    path: Path
    kind: Kind
    config: ModelConfig
    weights: Weights = field(repr=False)
    stored: Mapping[str, Array] = field(repr=False)
    files: Mapping[Path, int]  # the files that hold the weights, and their sizes in bytes
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)  # GGUF's, its tokenizer with them; else empty
    unread: tuple[str, ...] = ()  # keys of the description that nobody knows; they have no effect
    quantization: str | None = None  # how the files hold quantized weights, in a few words
    tokenizer_path: Path | None = None  # a Hugging Face folder, or llama2.c's tok*.bin; None where the metadata hold it


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder or file.

    Raises: ModelNotFoundError where there is none; CheckpointError, WeightsError, ConfigError or UnsupportedError, with
    the place, for one that is damaged, contradicts itself, or holds what this version cannot run.
    """
    path = Path(path)
    location = find(path)
    if location.kind == "gguf":
        return _open_gguf(path, location)
    if location.kind == "llama2c":
        return _open_llama2c(path, location)
    return _open_hugging_face(path, location)


def open_config(path: str | Path) -> ModelConfig:
    """The description alone. A folder needs no weights for it."""
    path = Path(path)
    if (path / "config.json").is_file():
        return _hugging_face_config(path / "config.json")[1]
    location = find(path)
    if location.kind == "gguf":
        return _gguf_config(GGUFFile(location.weights))[1]
    if location.kind == "llama2c":
        return _llama2c_config(llama2c.Llama2cFile(location.weights))
    return _hugging_face_config(location.config_file)[1]


def _open_hugging_face(path: Path, location: Location) -> Checkpoint:
    family, config, sees, quantization = _hugging_face_config(location.config_file)
    if location.kind == "distributed":
        stored, files = _put_together(location.weights.parent, config, family.WEIGHTS)
    else:
        open_file = SafetensorsFile if location.kind == "safetensors" else open_torch_bin
        stored, files = (
            open_sharded(location.weights, open_file)
            if location.is_index
            else (open_file(location.weights), [location.weights])
        )
    if sees:
        kept = {name: partial(stored.__getitem__, name) for name in stored if not is_of_images(name)}
        stored = Lazy(kept, getattr(stored, "aliases", None), getattr(stored, "metadata", None))
    if quantization is not None:
        stored = LogicalTensors(stored, quantization, config.dtype, location.weights)
        if stored.attention_only and not all(isinstance(layer.mixer, AttentionConfig) for layer in config.layers):
            raise UnsupportedError(
                f"{stored.how}: a model with recurrent layers", where=location.config_file, remedy=REMEDY
            )
    else:
        refuse_unsaid(stored, location.weights)
    weights = Weights(
        config,
        family.WEIGHTS,
        stored,
        location.weights,
        also=getattr(family, "ALSO", ()),
        ignored=family.IGNORED,
        aliases=getattr(stored, "aliases", None),
    )
    folder = location.weights.parent
    generation = folder / "generation_config.json"
    return Checkpoint(
        path=path,
        kind=location.kind,
        config=weights.config,
        weights=weights,
        stored=stored,
        files=_sizes(files),
        generation_config=read_json(generation) if generation.is_file() else {},
        unread=tuple(unread_keys(config)),
        tokenizer_path=folder,
        quantization=getattr(stored, "how", None),
    )


def _put_together(folder: Path, config: ModelConfig, rules: tuple[Rule, ...]) -> tuple[Lazy, list[Path]]:
    """A model in training, of which each process wrote its part, as its family would store it."""
    tensors = DistributedTensors(folder)
    weights = model_weights(tensors)

    def stored(match: Match) -> Array:
        return match.rule.inverse([weights[name] for name in match.ours], match.place)

    there = [match for match in matches(config, rules) if all(name in weights for name in match.ours)]
    return Lazy({match.theirs: partial(stored, match) for match in there}), [
        inside(folder, file.name, folder) for file in tensors.files
    ]


def _open_gguf(path: Path, location: Location) -> Checkpoint:
    file = GGUFFile(location.weights)
    family, config, unread = _gguf_config(file)
    stored = _of_the_decoder(file, config)
    return Checkpoint(
        path=path,
        kind=location.kind,
        config=config,
        weights=Weights(
            config,
            family.GGUF.weights,
            stored,
            location.weights,
            also=family.GGUF.also,
            ignored=family.GGUF.ignored,
            strict=True,
            zero_biases=True,
        ),
        stored=file.tensors,
        files=_sizes(file.paths),
        metadata=file.metadata,
        unread=unread,
    )


def _of_the_decoder(file: GGUFFile, config: ModelConfig) -> Mapping[str, Array]:
    """The file's tensors, without those of layers that guess further tokens, where its metadata say it has some."""
    architecture = file.metadata.get("general.architecture")
    if not file.metadata.get(f"{architecture}.nextn_predict_layers", 0):
        return file.tensors
    further = {
        name for name in file.tensors if (parts := name.split("."))[0] == "blk" and _layer(parts) >= config.num_layers
    }
    if further:
        notice(f"{file.path}: {len(further)} tensors are of layers that guess further tokens, and left unread")
    return Lazy({name: partial(file.tensors.__getitem__, name) for name in file.tensors if name not in further})


def _layer(parts: list[str]) -> int:
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() and len(parts[1]) < 9 else -1


def _open_llama2c(path: Path, location: Location) -> Checkpoint:
    file = llama2c.Llama2cFile(location.weights)
    config = _llama2c_config(file)
    return Checkpoint(
        path=path,
        kind=location.kind,
        config=config,
        weights=Weights(config, llama2c.WEIGHTS, file, location.weights, ignored=llama2c.IGNORED, strict=True),
        stored=file,
        files=_sizes([location.weights]),
        tokenizer_path=llama2c.find_tokenizer(location.weights),
    )


def _hugging_face_config(file: Path) -> tuple[ModuleType, ModelConfig, bool, Mapping[str, Any] | None]:
    """The family, the description, whether it is that of a part of a model that sees images, too, and how its weights
    are quantized.
    """
    if not file.is_file():
        raise ModelNotFoundError(
            "there is no config.json beside the weights",
            where=file.parent,
            remedy="transformers' Trainer saved the weights alone: trainer.model.save_pretrained(folder)"
            if (file.parent / "training_args.bin").is_file()
            else "download it from where the weights come from",
        )
    hf = read_json(file)
    quantization = _quantization(hf, file)
    if quantization is not None:
        method_of(quantization, file)  # what cannot be read is said before anything else
    hf = without_quantization(hf)
    if (text := text_part(hf)) is not None:
        notice(f"{file}: of this model of images and text, the text part is read ({text['model_type']})")
        hf = text
    family = family_of(hf.get("model_type"), file, hf)
    config = _described(lambda: family.config(hf), file)
    _tell_unread(unread_keys(config), file)
    return family, config, text is not None, quantization


def _quantization(hf: Mapping[str, Any], file: Path) -> Mapping[str, Any] | None:
    """What config.json says of quantization, or, where it is silent, the files that quantizers wrote beside it."""
    if (settings := quantization_of(hf)) is not None:
        return settings
    for name, method in BESIDE.items():
        if (file.parent / name).is_file():
            return {"quant_method": method, **read_json(file.parent / name)}
    return None


# Files of quantizers of before, and of NVIDIA's, beside a config.json that says nothing.
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}


def _tell_unread(keys: list[str], where: Path) -> None:
    if keys:
        notice(f"{where}: nothing here reads {some(keys, 12)}; they have no effect")


def _gguf_config(file: GGUFFile) -> tuple[ModuleType, ModelConfig, tuple[str, ...]]:
    family = family_of_gguf(file.metadata, file.path)
    reader, metadata = family.GGUF, Metadata(file.metadata, file.path)
    config = _described(lambda: family.config(reader.hf(metadata, file.tensors)), file.path)
    unread = metadata.unread(file.metadata["general.architecture"], reader.harmless)
    _tell_unread(unread, file.path)
    return family, config, tuple(unread)


def _llama2c_config(file: llama2c.Llama2cFile) -> ModelConfig:
    return _described(lambda: family_of(file.hf_config["model_type"], file.path).config(file.hf_config), file.path)


def _described(translate: Callable[[], ModelConfig], where: Path) -> ModelConfig:
    """A family's translation; a value of a type that it does not expect is the file's fault, and said so."""
    try:
        return translate()
    except PellucidError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ConfigError(
            f"the description holds a value that cannot be: {error}", where=where, remedy="the file may be damaged"
        ) from error


def _sizes(files: Iterable[Path]) -> dict[Path, int]:
    return {file: file.stat().st_size for file in files}
