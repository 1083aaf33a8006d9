"""What Hugging Face configs of the Llama lineage have in common: keys read with checks, rotary settings, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.config import MAX_LAYERS, Activation, RopeConfig, RopeScaling
from pellucid.families.translation.harmless import refuse_unread, to_report
from pellucid.families.translation.silence import SILENCE

# Hugging Face's names of activations -> ours. Source: transformers activations.ACT2FN.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}


class Keys:
    """A config's keys, read with their types checked; what nobody asked for is kept, reported or refused by ``rest()``.

    ``harmless`` are patterns of keys of the family's own that change nothing.
    """

    def __init__(self, hf: Mapping[str, Any], harmless: tuple[str, ...] = (), where: str | None = None) -> None:
        self._hf, self._harmless = dict(hf), harmless
        self._silence = SILENCE.get(str(hf.get("model_type")), {})
        self._read: set[str] = {
            "model_type",
            "architectures",
            "torch_dtype",
            "dtype",
            "transformers_version",
            "auto_map",
            "_name_or_path",
        }
        self.where = where or f"config.json ({hf.get('model_type')})"

    def get(self, name: str, default: Any = None) -> Any:
        """The key's value; ``default`` where it is null, or absent and the family's own classes say nothing else."""
        self._read.add(name)
        value = self._hf[name] if name in self._hf else self._silence.get(name)
        return default if value is None else value

    def switch(self, name: str, default: bool) -> bool:
        """Whether it is on. A switch that is null is off, whatever it is where the config is silent: so transformers'
        code takes it, ``if config.name``.
        """
        self._read.add(name)
        return bool(self._hf[name]) if name in self._hf else bool(self.get(name, default))

    def has(self, name: str) -> bool:
        """Whether the config has the key, be it null."""
        return name in self._hf

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number. Raises: ConfigError naming the key."""
        value = self.get(name, default)
        if value is None:
            raise ConfigError(
                f"{name} is missing", where=self.where, remedy="the config may be of another model_type, or damaged"
            )
        if isinstance(value, float) and value.is_integer():  # 4096.0: a length that was computed
            value = int(value)
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
        activation = self.get(name, default)
        if activation not in ACTIVATIONS:
            raise UnsupportedError(
                f"activation {activation!r} is not implemented", where=self.where, expected=", ".join(ACTIVATIONS)
            )
        return ACTIVATIONS[activation]

    def choices(self, name: str, count: int, **meanings: Any) -> list[Any]:
        """A word a layer, as what it means. Raises: ConfigError or UnsupportedError naming the key."""
        words = self.get(name)
        if not isinstance(words, (list, tuple)) or len(words) != count:
            raise ConfigError(f"{name} must be a list, one word a layer", where=self.where, received=shown(words))
        for word in words:
            if not isinstance(word, str) or word not in meanings:
                raise UnsupportedError(
                    f"{name}: {shown(word)} is not implemented", where=self.where, expected=" or ".join(meanings)
                )
        return [meanings[word] for word in words]

    def only(self, name: str, *values: Any) -> None:
        """The mechanism that another value would switch on is not implemented: say so rather than compute something
        else.
        """
        if (value := self.get(name, values[0])) not in values:
            raise UnsupportedError(
                f"{name} = {value!r} is not implemented", where=self.where, expected=" or ".join(map(repr, values))
            )

    def token_ids(self, name: str, default: Any = None) -> tuple[int, ...]:
        """One id or several, as a tuple."""
        value = self.get(name, default)
        ids = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise ConfigError(f"{name} must be a token id or a list of them", where=self.where, received=repr(value))
        return ids

    def dtype(self) -> str:
        dtype = self._hf.get("dtype") or self._hf.get("torch_dtype") or "float32"
        return str(dtype).removeprefix("torch.")

    def common(self, *, tied: bool) -> dict[str, Any]:
        """The fields of ``ModelConfig`` that every family's config names alike; ``tied`` is the family's default. Read
        last: it takes the rest.
        """
        return {
            "tie_embeddings": self.switch("tie_word_embeddings", tied),
            "bos_token_id": self.get("bos_token_id"),
            "eos_token_ids": self.token_ids("eos_token_id"),
            "pad_token_id": self.get("pad_token_id"),
            "dtype": self.dtype(),
            "extra": self.rest(),
        }

    def rest(self) -> dict[str, Any]:
        """What nobody asked for. Raises: UnsupportedError for a key of it that would change the numbers."""
        rest = {name: value for name, value in self._hf.items() if name not in self._read}
        refuse_unread(rest, self.where, self._harmless)
        return rest

    def unused(self, known: Iterable[str]) -> list[str]:
        """The names among ``known`` that nobody asked for. Raises: UnsupportedError for any other that has a value."""
        rest = {name: value for name, value in self._hf.items() if name not in self._read and value is not None}
        unused = [name for name in rest if name in known]
        for name in to_report({name: value for name, value in rest.items() if name not in known}):
            raise UnsupportedError(f"{name} = {rest[name]!r} is not implemented", where=self.where)
        return unused

    def part(self, *names: str) -> Keys | None:
        """The object under the first of these names that is there; None where none is."""
        values = [self.get(name) for name in names]  # all count as read
        name, value = next(((name, value) for name, value in zip(names, values, strict=True) if value), ("", None))
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be an object", where=self.where, received=repr(value))
        return Keys(value, where=f"{self.where}: {name}")


# What each kind of rotary scaling reads. Source: transformers modeling_rope_utils.
_READ = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor"),
    "factors": ("short_factor", "attention_factor"),
    "proportional": ("factor",),
}
_NEEDED = {"linear": _READ["linear"], "dynamic": _READ["dynamic"], "llama3": _READ["llama3"]}
_KNOWN = {*(name for names in _READ.values() for name in names), "original_max_position_embeddings"}
_LISTS = {"short_factor": "short_factors", "long_factor": "long_factors"}


def rope(
    keys: Keys,
    head_dim: int,
    context_len: int,
    *,
    default_theta: float = 10000.0,
    partial: float | None = None,
    layout: Literal["half", "interleaved"] = "half",
) -> RopeConfig:
    """Rotary settings from ``rope_parameters`` (transformers 5), or ``rope_theta`` and ``rope_scaling`` (before it).

    ``partial``: what part of a head turns where the config does not say it; None: the whole head, whatever it says.
    """
    theta = keys.get("rope_theta", default_theta)  # read in any case: it is no unknown key
    outside = keys.size("original_max_position_embeddings", context_len), keys.get("original_max_position_embeddings")
    settings, dim = keys.part("rope_parameters", "rope_scaling"), head_dim
    if partial is not None:
        factor = keys.get("partial_rotary_factor", partial)
        factor = factor if settings is None else settings.get("partial_rotary_factor", factor)
        dim = int(head_dim * factor)
    if settings is None:
        return RopeConfig(dim=dim, theta=theta, layout=layout)
    theta = settings.get("rope_theta", theta)
    kind = settings.get("type", "default")
    kind = settings.get("rope_type", kind)
    if kind != "default" and kind not in _READ:
        raise UnsupportedError(f"rope_type {kind!r} is not implemented", where=settings.where)
    values: dict[str, Any] = {name: value for name in _READ.get(kind, ()) if (value := settings.get(name)) is not None}
    if absent := [name for name in _NEEDED.get(kind, ()) if name not in values]:
        raise ConfigError(f"rope_type {kind!r} needs {absent[0]}", where=settings.where)
    original = settings.size("original_max_position_embeddings", context_len)
    pairs = int(settings.get("partial_rotary_factor", 1.0) * head_dim // 2) if kind == "proportional" else None
    _without_effect(settings, kind)
    if kind == "proportional":  # frequencies as of a whole head, of which the first pairs turn
        pairs = None if pairs == dim // 2 else pairs
        scaling = RopeScaling(kind="linear", **values) if values.get("factor", 1.0) != 1.0 else None
        return RopeConfig(dim=dim, theta=theta, layout=layout, scaling=scaling, pairs=pairs)
    if kind == "default":
        return RopeConfig(dim=dim, theta=theta, layout=layout)
    if outside[1] is not None:  # Phi-3 and others write it beside; transformers prefers that
        original = outside[0]
    if kind in ("dynamic", "linear"):
        original = context_len  # dynamic: transformers compares with max_position_embeddings
    values.setdefault("factor", context_len / original)
    if kind == "longrope" and values.get("attention_factor") == 1 and _same_lists(values):
        kind = "factors"  # one list for every length
    if kind == "factors":
        values = {"short_factor": values.get("short_factor")}
    lists: dict[str, Any] = {ours: tuple(values.pop(theirs, None) or ()) for theirs, ours in _LISTS.items()}
    scaling = RopeScaling(kind=kind, original_context_len=original, **lists, **values)
    return RopeConfig(dim=dim, theta=theta, layout=layout, scaling=scaling)


def partial_rotary_to_hf(head_dim: int, dim: int) -> float:
    """The factor that makes ``dim`` of ``head_dim`` again: the product is cut to a whole number."""
    factor = dim / head_dim
    return factor if int(head_dim * factor) == dim else math.nextafter(factor, 1.0)


def _same_lists(values: Mapping[str, Any]) -> bool:
    return values.get("short_factor") is not None and values.get("short_factor") == values.get("long_factor")


def _without_effect(settings: Keys, kind: str) -> None:
    """Keys that this kind of scaling does not read are reported, as transformers does; unknown ones are refused."""
    rest = settings.unused(_KNOWN)
    if rest:
        notice(f"{settings.where}: {', '.join(rest)} mean nothing with rope_type {kind!r}; they have no effect")


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
