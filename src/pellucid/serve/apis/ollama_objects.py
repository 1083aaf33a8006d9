"""What Ollama's API is made of: options, durations, models, and how long things took."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.serve.http.errors import invalid
from pellucid.serve.http.schema import ANYTHING, Schema, any_of, list_of, nullable, number, record, text, whole
from pellucid.serve.work.ask import refuse, stops

if TYPE_CHECKING:
    from pellucid.serve.work.answer import Answering
    from pellucid.serve.work.models import Model

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

OPTIONS: Schema = nullable(
    record(
        {
            "temperature": nullable(number(0)),
            "top_k": nullable(whole(-1)),
            "top_p": nullable(number(0, 1)),
            "min_p": nullable(number(0, 1)),
            "seed": nullable(whole(-(2**63), 2**64 - 1)),
            "num_predict": nullable(whole(-2)),
            "stop": nullable(any_of(text(minLength=1), list_of(text(minLength=1), maxItems=64))),
            "repeat_penalty": nullable(number(0.01, 100)),
            "frequency_penalty": nullable(number(-2, 2)),
            "presence_penalty": nullable(number(-2, 2)),
            # known, and refused where they ask for what is not here
            "typical_p": ANYTHING,
            "tfs_z": ANYTHING,
            "mirostat": ANYTHING,
            # of Ollama's own engine: what they set is set when the server starts, or has no counterpart
            **dict.fromkeys(
                (
                    *("num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock"),
                    *("numa", "low_vram", "f16_kv", "vocab_only", "logits_all", "repeat_last_n", "penalize_newline"),
                    *("mirostat_tau", "mirostat_eta", "draft_num_predict"),
                ),
                ANYTHING,
            ),
        },
        more=False,
    )
)
KEEP_ALIVE: Schema = nullable(any_of(text(), number()))


def choosing(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of ``Ask`` that Ollama's options say. Raises: ApiError."""
    options = options or {}
    refuse(options, {"typical_p": (1,), "tfs_z": (1,), "mirostat": (0,)})
    names = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty")
    sampling = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("top_k") is not None:
        sampling["top_k"] = max(options["top_k"], 0)
    if options.get("repeat_penalty") is not None:
        sampling["repetition_penalty"] = options["repeat_penalty"]
    seed, most = options.get("seed"), options.get("num_predict")
    if most == 0:
        raise invalid("options.num_predict: 0 asks for no answer; −1 for as long as it gets", "options.num_predict")
    return {
        "sampling": sampling,
        "seed": None if seed is None or seed == -1 else seed % 2**64,
        "stop": stops(options.get("stop")),
        "max_tokens": None if most is None or most < 0 else most,
        "clamp": True,
    }


def keep_alive(value: Any) -> float | None:
    """Seconds; below 0: for good. Go's durations: ``5m``, ``1h30m``. Raises: ApiError."""
    if value is None or isinstance(value, int | float):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", value)
    if (sign := value[:1] in ("-", "+")) and value[0] == "-":
        return -1.0
    if "".join(map("".join, parts)) != value[sign:] or not parts:
        try:
            return float(value)
        except ValueError:
            raise invalid(f"keep_alive: {value[:40]!r} is no duration; write 300, '5m' or -1", "keep_alive") from None
    return sum(float(amount) * _UNITS[unit] for amount, unit in parts)


def time_text(seconds: float) -> str:
    """RFC 3339, as Go writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def now() -> str:
    return time_text(datetime.now(UTC).timestamp())


def durations(answering: Answering) -> dict[str, int]:
    """Of the whole answer, in nanoseconds and tokens."""
    timings = answering.timings
    assert timings is not None
    whole = timings.queued + timings.prefill + timings.decode
    return {
        "total_duration": round(whole * 1e9),
        "load_duration": 0,
        "prompt_eval_count": timings.prompt_tokens,
        "prompt_eval_duration": round(timings.prefill * 1e9),
        "eval_count": timings.new_tokens,
        "eval_duration": round(timings.decode * 1e9),
    }


def size_of(model: Model) -> int:
    """Bytes of the model's files, 0 where they are not known yet."""
    loaded = model.loaded
    if loaded is None:
        return 0
    path = Path(loaded.checkpoint.path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def details(model: Model) -> dict[str, Any]:
    loaded = model.loaded
    if loaded is None:
        return {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": "",
        }
    checkpoint = loaded.checkpoint
    family = checkpoint.config.model_type
    parameters = sum(_size(array.shape) for array in checkpoint.weights.values())
    return {
        "parent_model": "",
        "format": "gguf" if str(checkpoint.path).endswith(".gguf") else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.2f}M",
        "quantization_level": _stored(checkpoint.weights),
    }


def _stored(weights: Mapping[str, Any]) -> str:
    """The format that most of the numbers are in."""
    sizes: dict[str, int] = {}
    for array in weights.values():
        sizes[str(array.dtype)] = sizes.get(str(array.dtype), 0) + _size(array.shape)
    return max(sizes, key=lambda name: sizes[name]).upper()


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size


def model_json(model: Model) -> dict[str, Any]:
    """An entry of /api/tags."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": time_text(model.created),
        "size": size_of(model),
        "digest": hashlib.sha256(f"{model.name}\n{model.source}".encode()).hexdigest(),
        "details": details(model),
    }
