"""From ``quantization_config`` and the files' tensors to logical weights: each an Array made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.quantized import awq, bitsandbytes, compressed, fp8, gptq, hqq, mlx, mxfp4, torchao
from pellucid.checkpoint.quantized.method import Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors
from pellucid.families.translation.rules import some

METHODS: dict[str, Callable[[Settings], Method]] = {
    "gptq": gptq.read,
    "awq": awq.read,
    "auto-round": lambda settings: read_auto_round(settings),
    "intel/auto-round": lambda settings: read_auto_round(settings),
    "compressed-tensors": compressed.read,
    "compressed_tensors": compressed.read,
    "fp8": fp8.read,
    "fbgemm_fp8": fp8.read_fbgemm,
    "modelopt": fp8.read_modelopt,
    "modelopt_fp4": fp8.read_modelopt,
    "mxfp4": mxfp4.read,
    "bitsandbytes": bitsandbytes.read,
    "hqq": hqq.read,
    "torchao": torchao.read,
    "mlx": mlx.read,
    "metal": mlx.read,
}
FLOATS = ("float32", "float16", "bfloat16")

# Leaves by which a tensor is known to be a part of a quantized weight, whoever wrote it.
_KINDS = (gptq.Gptq, awq.Awq, compressed.Compressed, fp8.Fp8, mxfp4.Mxfp4, bitsandbytes.BitsAndBytes,
          hqq.Hqq, torchao.TorchAo)  # fmt: skip
TELLTALE = {leaf for kind in _KINDS for leaf in kind.leaves}


def quantization_of(hf: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings in a config.json, under any of the names that they have had; None where there are none.

    Raises: ConfigError where they are no object.
    """
    text = hf.get("text_config")
    places = [hf, text] if isinstance(text, Mapping) else [hf]
    for place in places:
        said = {name: place[name] for name in NAMES if place.get(name) not in (None, {})}
        for name, settings in said.items():
            if not isinstance(settings, Mapping):
                raise ConfigError(f"{name} must be an object", where="config.json", received=shown(settings))
            if "quant_method" in settings:
                return settings
        for name, method in NAMES.items():  # MLX writes its settings under two names, without a method
            if name in said:
                return {"quant_method": method, **said[name]} if method else said[name]
    return None


# Where config.json has the settings, and the method that wrote them there without its name.
NAMES = {"quantization": "mlx", "compression_config": "compressed-tensors", "quantization_config": None}


def without_quantization(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the model itself."""
    plain = {key: value for key, value in hf.items() if key not in NAMES}
    text = plain.get("text_config")
    return plain | {"text_config": without_quantization(text)} if isinstance(text, Mapping) else plain


def read_auto_round(settings: Settings) -> Method:
    """AutoRound's own name, for weights that it packs as others do."""
    packing = settings.text("packing_format", default="auto_round")
    known = {"auto_round:auto_gptq": gptq.read, "auto_round:auto_awq": awq.read}
    if packing not in known:
        raise UnsupportedError(
            f"AutoRound's packing {packing!r}", where=settings.where, expected=" or ".join(known), remedy=REMEDY
        )
    return known[packing](settings)


def method_of(quantization: Mapping[str, Any], where: object) -> Method:
    """Raises: UnsupportedError for a method, or a setting of one, that nothing here understands."""
    settings = Settings(quantization, f"{where}: quantization_config")
    name = settings.get("quant_method")
    if name is None and "bits" in quantization and "group_size" in quantization:
        name = "awq" if "zero_point" in quantization else "gptq"  # files of before methods were named
    if not isinstance(name, str) or name.lower() not in METHODS:
        raise UnsupportedError(
            f"weights quantized by {shown(name)}",
            where=where,
            expected=", ".join(name for name in METHODS if "/" not in name and "_" not in name),
            remedy=REMEDY,
        )
    return METHODS[name.lower()](settings)


class LogicalTensors(Lazy):
    """The tensors of a quantized model's files as they would be called were they not quantized. ``how`` says it in a
    few words.
    """

    def __init__(self, stored: Mapping[str, Array], quantization: Mapping[str, Any], dtype: str, where: object) -> None:
        method = method_of(quantization, where)
        self.how, self.attention_only = method.name, method.attention_only
        made: dict[str, Callable[[], Array]] = {}
        used: set[str] = set()
        for logical in method.logical(Tensors(stored, where), dtype if dtype in FLOATS else "float32"):
            parts = {part for part in logical.parts if part in stored}
            if logical.name in made or (logical.name in stored and logical.name not in parts):
                raise WeightsError(f"{logical.name} is there twice, quantized and not", where=where)
            made[logical.name] = logical.array.again  # numbers live as long as whoever asked for them
            used |= parts
        _contradictions(Settings(quantization, str(where)), made, where)
        beside = [name for name in stored if name not in used and name.rpartition(".")[2] in method.beside]
        if beside:
            notice(
                f"{where}: other programs round activations or cached keys as {some(beside, 2)} say; here they are not"
            )
        used |= set(beside)
        rest = [name for name in stored if name not in used]
        left = [name for name in rest if name.rpartition(".")[2] in TELLTALE]
        if left:
            raise WeightsError(
                f"{some(left)}: parts of quantized weights that {method.name} does not have", where=where, remedy=REMEDY
            )
        if not made:
            notice(f"{where}: quantization_config names {method.name}, but no tensor is quantized")
        super().__init__(
            {name: made[name] if name in made else partial(stored.__getitem__, name) for name in (*rest, *made)},
            getattr(stored, "aliases", None),
        )


def _contradictions(settings: Settings, made: Mapping[str, Any], where: object) -> None:
    """Raises: WeightsError for a module that is quantized though the settings name it as left alone."""
    names = settings.names("modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules")
    for name in names:
        if f"{name}.weight" in made:
            raise WeightsError(
                f"{name} is quantized, but quantization_config names it as left alone",
                where=where,
                remedy="one of both is of another model",
            )


def refuse_unsaid(stored: Mapping[str, Array], where: object) -> None:
    """Raises: WeightsError for parts of quantized weights in a folder whose config.json says nothing of them."""
    told = [name for name in stored if name.rpartition(".")[2] in TELLTALE]
    if told:
        raise WeightsError(
            f"{some(told)}: the weights are quantized, but config.json has no quantization_config",
            where=where,
            remedy="download config.json again; it says how to read them",
        )
