"""What ``from_pretrained`` is asked for in transformers' words, in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import ConfigError
from pellucid.base.notice import notice
from pellucid.checkpoint.sources import asked
from pellucid.checkpoint.sources.asked import Asked

# Known of transformers, and where the idea lives here.
ELSEWHERE = {
    "max_memory": "a model is on one device, whole: device='cuda:0'",
    "offload_folder": "a model is in memory, whole; quantize='q4' makes it an eighth",
    "offload_state_dict": "weights are mapped, and converted one at a time: nothing to offload",
    "offload_buffers": "a model is in memory, whole; quantize='q4' makes it an eighth",
    "tp_plan": "training on several GPUs: see docs, `pellucid finetune --help`",
    "tp_size": "training on several GPUs: see docs, `pellucid finetune --help`",
    "output_attentions": "ask the call: model(ids, output_attentions=True), or trace(model, tokenizer, text)",
    "output_hidden_states": "ask the call: model(ids, output_hidden_states=True), or trace(model, tokenizer, text)",
    "num_labels": "models here predict the next token",
    "id2label": "models here predict the next token",
    "variant": "name the file or folder itself",
    "from_tf": "convert the checkpoint to safetensors first",
    "from_flax": "convert the checkpoint to safetensors first",
    **asked.ELSEWHERE,
    "key_mapping": "name the tensors as the family's files do; prefixes of wrappers are found by themselves",
}
# What these switch on is so here in any case, or changes nothing.
WITHOUT_EFFECT = ("low_cpu_mem_usage", "use_cache", "_fast_init", "weights_only", "return_dict")
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """``dtype``, ``device`` and ``quantize`` as here; where the model is; whether the report is wanted."""

    where: Asked
    dtype: Any
    device: Any
    quantize: str | None
    config: Any = None
    state_dict: Mapping[str, torch.Tensor] | None = None
    safetensors_only: bool = False
    report: bool = False
    device_map: Any = None

    @classmethod
    def of(
        cls,
        name: Any,
        *,
        dtype: Any,
        device: Any,
        quantize: str | None,
        revision: str | None,
        offline: bool,
        habits: Mapping[str, Any],
    ) -> Loading:
        """From the arguments of the call; ``habits`` are those that are transformers' alone.

        Raises: TypeError for one that nobody knows, ConfigError for one that asks for what is not here.
        """
        words = dict(habits)
        where = Asked.of(name, revision, offline, words)
        for known in WITHOUT_EFFECT:
            words.pop(known, None)
        dtype = _one("dtype", dtype, "torch_dtype", words.pop("torch_dtype", None), "auto")
        device_map = words.pop("device_map", None)
        device = _one("device", device, "device_map", _device_of(device_map), "auto")
        quantize = _quantized(quantize, words)
        tell_of_attention(words.pop("attn_implementation", None))
        if words.pop("ignore_mismatched_sizes", False):
            raise ConfigError(
                "weights of other shapes than the description's are never loaded", received="ignore_mismatched_sizes"
            )
        made = cls(
            where=where,
            dtype=dtype,
            device=device,
            quantize=quantize,
            config=words.pop("config", None),
            state_dict=words.pop("state_dict", None),
            safetensors_only=bool(words.pop("use_safetensors", False)),
            report=bool(words.pop("output_loading_info", False)),
            device_map=device_map,
        )
        refuse_unknown("from_pretrained", words, KNOWN, ELSEWHERE)
        return made


KNOWN = (
    *asked.KNOWN,
    *("dtype", "device", "quantize", "torch_dtype", "device_map", "attn_implementation", "low_cpu_mem_usage"),
    *("use_safetensors", "config", "state_dict", "load_in_4bit", "load_in_8bit", "quantization_config"),
    *("output_loading_info", "ignore_mismatched_sizes"),
)


def _one(name: str, value: Any, habit: str, other: Any, default: Any) -> Any:
    """The one of two words for a thing that was said. Raises: ConfigError where both were, and differ."""
    if other is None:
        return value
    if value != default and value != other:
        raise ConfigError(f"{name} and {habit} say different things", received=f"{value!r} and {other!r}")
    return other


def _device_of(device_map: Any) -> Any:
    """The one device of a map. Raises: ConfigError for a model that is spread over several."""
    if device_map is None or isinstance(device_map, (str, torch.device)):
        every = {"auto": "auto", "balanced": "auto", "balanced_low_0": "auto", "sequential": "auto"}
        return every.get(device_map, device_map) if isinstance(device_map, str) else device_map
    if isinstance(device_map, int):
        return f"cuda:{device_map}"
    devices = set(device_map.values()) if isinstance(device_map, Mapping) else set()
    if len(devices) == 1:
        return _device_of(devices.pop())
    raise ConfigError(
        "a model is on one device, whole", received=f"device_map={device_map!r}", remedy="device_map='auto' or 'cuda:0'"
    )


def _quantized(quantize: str | None, words: dict[str, Any]) -> str | None:
    """``quantize`` from bitsandbytes' words for it."""
    settings = words.pop("quantization_config", None)
    if settings is not None and not isinstance(settings, Mapping):
        settings = settings.to_dict() if hasattr(settings, "to_dict") else vars(settings)
    four, eight = words.pop("load_in_4bit", False), words.pop("load_in_8bit", False)
    if settings is not None:
        four, eight = four or settings.get("load_in_4bit"), eight or settings.get("load_in_8bit")
        if not (four or eight):
            raise ConfigError(
                "quantization_config asks for a method that is not here",
                received=str(settings.get("quant_method")),
                expected="load_in_4bit or load_in_8bit",
                remedy="quantize='q4' or 'q8'; a folder that is quantized already opens as it is",
            )
    if not (four or eight):
        return quantize
    notice(f"load_in_{4 if four else 8}bit: matrices are kept in blocks of 32 ({'q4' if four else 'q8'})")
    return _one("quantize", quantize, "load_in_4bit" if four else "load_in_8bit", "q4" if four else "q8", None)


def tell_of_attention(asked: Any) -> None:
    """How attention is computed is not chosen here. Raises: ConfigError for a way that nobody knows."""
    if asked is None or asked == "sdpa":
        return
    if asked not in ATTENTION:
        raise ConfigError("attn_implementation is unknown", expected=", ".join(ATTENTION), received=repr(asked))
    notice(
        f"attn_implementation={asked!r}: torch's fused kernel attends in any case; "
        "output_attentions=True, or trace(…), goes step by step"
    )
