"""A GGUF file's metadata, with an account of what was read: a key that changes the numbers is never passed over.

Source: llama.cpp, llama-model.cpp (load_hparams: which keys are read, and their defaults) and llama-model-saver.cpp
(what its own saver writes of every model, whether it means anything for it or not).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.families.translation.harmless import changes_numbers, is_neutral

NO_TOKEN = 2**32 - 1  # llama.cpp's saver writes −1 as uint32 where there is no such token

# Keys that change no logit, with their prefixes: who made the file and of what, the tokenizer (``text/`` reads it).
HARMLESS = ("general.*", "tokenizer.*", "split.*", "quantize.*", "imatrix.*", "GGUF.*")
# Of the architecture's own keys, without its name.
_OWN = (
    *(
        "vocab_size",
        "feed_forward_length",
        "tensor_data_layout",
        "pooling_type",
        "decoder_start_token_id",
        "rope.scaling.finetuned",
    ),
    *("classifier.*", "dense_2_feat*", "dense_3_feat*"),
)
# Values that llama.cpp takes for "not there", beside false, empty, a size of 0 and a factor of 1: 0 for a scale, its
# structs' own defaults (which its saver writes of every model).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_scale": (0,),
    "residual_scale": (0,),
    "embedding_scale": (0,),
    "attention.scale": (0,),
    "expert_weights_scale": (0,),
    "rope.scale_linear": (0,),
    "rope.scaling.factor": (0,),
    "rope.scaling.alpha": (0,),
    "attn_logit_softcapping": (50,),
    "final_logit_softcapping": (30,),
    "rescale_every_n_layers": (0,),
    "expert_gating_func": (1,),
    "expert_group_count": (1,),
    "expert_group_used_count": (1,),
}


class Metadata(Mapping[str, Any]):
    """Key → value as the file holds it, each key marked as it is read; a number of numpy's as Python's."""

    def __init__(self, raw: Mapping[str, Any], where: object = "GGUF") -> None:
        self._raw, self._read, self.where = raw, set[str](), where

    def __getitem__(self, key: str) -> Any:
        value = self._raw[key]
        self._read.add(key)
        return value.item() if isinstance(value, np.generic) else value

    def __contains__(self, key: object) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def was_read(self, key: str) -> bool:
        return key in self._read

    def needed(self, key: str) -> Any:
        """A value that must be there. Raises: ConfigError naming it."""
        if key not in self:
            raise ConfigError(
                f"{key} is missing from the metadata",
                where=self.where,
                remedy="the file may be damaged or very old; convert it again",
            )
        return self.scalar(key)

    def scalar(self, key: str, default: Any = None) -> Any:
        """A value that every layer shares. llama.cpp takes one for all layers, or a list of one a layer.

        Raises: UnsupportedError for a list whose values differ.
        """
        value = self.get(key, default)
        if not isinstance(value, (np.ndarray, list)):
            return value
        values = [item.item() if isinstance(item, np.generic) else item for item in value]
        if not values:
            return default
        if any(item != values[0] for item in values):
            raise UnsupportedError(
                f"{key} differs from layer to layer, which this family's description has no place for",
                where=self.where,
                expected="the same for every layer",
                received=str(values[:12]) + (" …" if len(values) > 12 else ""),
            )
        return values[0]

    def by_layer(self, key: str, count: int) -> list[Any]:
        """A value a layer, of ``count`` layers; one for all is each one's. Raises: ConfigError for another number."""
        value = self.get(key)
        if not isinstance(value, (np.ndarray, list)):
            return [self.needed(key)] * count
        if len(value) != count:
            raise ConfigError(
                f"{key} must have a value for each layer", where=self.where, expected=count, received=len(value)
            )
        return [item.item() if isinstance(item, np.generic) else item for item in value]

    def expect(self, key: str, expected: Any, why: str) -> None:
        """A value that may be absent, and else can only be this one. Raises: UnsupportedError saying why."""
        value = self.scalar(key, expected)
        if value != expected:
            raise UnsupportedError(f"{key}: {why}", where=self.where, expected=expected, received=repr(value)[:80])

    def unread(self, architecture: str, known: Iterable[str] = ()) -> list[str]:
        """The keys that nobody read and nobody knows. ``known`` are patterns of the family's own harmless ones.

        Raises: UnsupportedError for one that would change the numbers.
        """
        prefix, names = f"{architecture}.", []
        for key, value in self._raw.items():
            own = key.removeprefix(prefix)
            if key in self._read or any(fnmatchcase(key, pattern) for pattern in HARMLESS):
                continue
            if own != key and any(fnmatchcase(own, pattern) for pattern in (*_OWN, *known)):
                continue
            name = own.replace(".", "_")
            if not (changes_numbers(name) or own.startswith(("leading_dense", "swin_", "wkv.", "time_"))):
                names.append(key)
            elif not self._is_neutral(own, name, value, architecture):
                raise UnsupportedError(
                    f"{key} = {_shown(value)} is not implemented",
                    where=self.where,
                    remedy="without it the model would compute something else",
                )
        return names

    def _is_neutral(self, own: str, name: str, value: Any, architecture: str) -> bool:
        values = value.tolist() if isinstance(value, np.ndarray) else [value]
        if own == "attention.causal":
            return all(item is True for item in values)
        if own == "attention.sliding_window":  # one that is no shorter than the context never acts
            context = self._raw.get(f"{architecture}.context_length", 0)
            numbers = all(isinstance(item, (int, float)) for item in (context, *values))
            return numbers and all(item == 0 or item >= context for item in values)
        return all(is_neutral(name, item) or item in _NEUTRAL.get(own, ()) for item in values)


def _shown(value: Any) -> str:
    text = str(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 80 else f"{text[:79]}…"
