"""What Hugging Face configs of the Llama lineage have in common: reading keys with checks, rotary settings, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.config import MAX_LAYERS, Activation, RopeConfig, RopeScaling

# Hugging Face's names of activations -> ours. Source: transformers activations.ACT2FN.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


class Keys:
    """A config's keys, read once each, with their types checked; ``rest()`` is what nobody asked for."""

    def __init__(self, hf: Mapping[str, Any]) -> None:
        self._hf = dict(hf)
        self._read: set[str] = {
            "model_type",
            "architectures",
            "torch_dtype",
            "dtype",
            "transformers_version",
            "auto_map",
            "_name_or_path",
        }
        self.where = f"config.json ({hf.get('model_type')})"

    def get(self, name: str, default: Any = None) -> Any:
        """The key's value; ``default`` where it is absent or null."""
        self._read.add(name)
        value = self._hf.get(name)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number. Raises: ConfigError naming the key."""
        value = self.get(name, default)
        if value is None:
            raise ConfigError(
                f"{name} is missing", where=self.where, remedy="the config may be of another model_type, or damaged"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ConfigError(f"{name} must be a positive whole number", where=self.where, received=repr(value))
        return value

    def num_layers(self, name: str) -> int:
        """The number of layers, bounded before anything is built for each."""
        count = self.size(name)
        if count > MAX_LAYERS:
            raise ConfigError(
                f"{name} is out of range", where=self.where, expected=f"at most {MAX_LAYERS}", received=count
            )
        return count

    def activation(self, name: str, default: str) -> Activation:
        given = self.get(name, default)
        if given not in ACTIVATIONS:
            raise UnsupportedError(
                f"activation {given!r} is not implemented", where=self.where, expected=", ".join(ACTIVATIONS)
            )
        return ACTIVATIONS[given]

    def only(self, name: str, *values: Any) -> None:
        """The mechanism that another value would switch on is not implemented: say so rather than compute something
        else.
        """
        if (given := self.get(name, values[0])) not in values:
            raise UnsupportedError(
                f"{name} = {given!r} is not implemented", where=self.where, expected=" or ".join(map(repr, values))
            )

    def token_ids(self, name: str, default: Any = None) -> tuple[int, ...]:
        """One id or several, as a tuple."""
        given = self.get(name, default)
        ids = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise ConfigError(f"{name} must be a token id or a list of them", where=self.where, received=repr(given))
        return ids

    def dtype(self) -> str:
        given = self._hf.get("dtype") or self._hf.get("torch_dtype") or "float32"
        return str(given).removeprefix("torch.")

    def common(self, *, tied: bool) -> dict[str, Any]:
        """The fields of ``ModelConfig`` that every family's config names alike; ``tied`` is the family's default. Read
        last: it takes the rest.
        """
        return {
            "tie_embeddings": bool(self.get("tie_word_embeddings", tied)),
            "bos_token_id": self.get("bos_token_id"),
            "eos_token_ids": self.token_ids("eos_token_id"),
            "pad_token_id": self.get("pad_token_id"),
            "dtype": self.dtype(),
            "extra": self.rest(),
        }

    def rest(self) -> dict[str, Any]:
        return {name: value for name, value in self._hf.items() if name not in self._read}


def rope(keys: Keys, dim: int, context_len: int, *, default_theta: float = 10000.0) -> RopeConfig:
    """Rotary settings from ``rope_parameters`` (transformers 5), or ``rope_theta`` and ``rope_scaling`` (before it)."""
    given = keys.get("rope_parameters") or keys.get("rope_scaling") or {}
    theta = keys.get("rope_theta", default_theta)  # read in any case: it is no unknown key
    if not isinstance(given, Mapping):
        raise ConfigError("rope_parameters must be an object", where=keys.where, received=repr(given))
    theta = given.get("rope_theta", theta)
    kind = given.get("rope_type", given.get("type", "default"))
    outside = keys.get("original_max_position_embeddings")
    if kind == "default":
        return RopeConfig(dim=dim, theta=theta)
    if kind not in ("linear", "dynamic", "llama3", "yarn", "longrope", "factors"):
        raise UnsupportedError(f"rope_type {kind!r} is not implemented", where=keys.where)
    original = outside or given.get("original_max_position_embeddings") or context_len
    if kind == "dynamic":
        original = context_len  # transformers compares with max_position_embeddings here
    factor = given.get("factor")
    if factor is None:
        if kind not in ("yarn", "longrope", "factors"):
            raise ConfigError(f"rope_type {kind!r} needs a factor", where=keys.where)
        factor = context_len / original
    optional = {
        ours: given[theirs]
        for ours, theirs in (
            ("attention_factor", "attention_factor"),
            ("low_freq_factor", "low_freq_factor"),
            ("high_freq_factor", "high_freq_factor"),
            ("beta_fast", "beta_fast"),
            ("beta_slow", "beta_slow"),
            ("mscale", "mscale"),
            ("mscale_all_dim", "mscale_all_dim"),
            ("truncate", "truncate"),
        )
        if given.get(theirs) is not None
    }
    scaling = RopeScaling(
        kind=kind,
        factor=factor,
        original_context_len=original,
        short_factors=tuple(given.get("short_factor") or ()),
        long_factors=tuple(given.get("long_factor") or ()),
        **optional,
    )
    return RopeConfig(dim=dim, theta=theta, scaling=scaling)


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` as every version of transformers reads them."""
    scaling = rope.scaling
    if scaling is None:
        return {"rope_theta": rope.theta, "rope_scaling": None}
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "factors":  # what transformers calls longrope, with one list for every length
        written |= {
            "rope_type": "longrope",
            "original_max_position_embeddings": scaling.original_context_len,
            "attention_factor": 1.0,
        }
        written |= {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.short_factors)}
    if scaling.kind in ("llama3", "yarn", "longrope"):
        written["original_max_position_embeddings"] = scaling.original_context_len
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        written |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        written |= {
            name: value for name in ("mscale", "mscale_all_dim") if (value := getattr(scaling, name)) is not None
        }
    if scaling.kind == "longrope":
        written |= {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    if scaling.kind in ("yarn", "longrope") and scaling.attention_factor is not None:
        written["attention_factor"] = scaling.attention_factor
    return {"rope_theta": rope.theta, "rope_scaling": written}


def one_or_many(ids: tuple[int, ...]) -> int | list[int] | None:
    """Token ids as config.json writes them: null, a number, or a list."""
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)
