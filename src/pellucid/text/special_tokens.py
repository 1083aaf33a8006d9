"""The special tokens by name (``bos_token``, ``pad_token_id``, …), as Hugging Face names them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken, as_added_token

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _ByName:
    """The attribute ``bos_token`` and its like: a token, or None. It can be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> str | None:
        return None if tokenizer is None else tokenizer._named.get(self.name)

    def __set__(self, tokenizer: SpecialTokens, value: str | AddedToken | None) -> None:
        if value is not None and (not isinstance(value, (str, AddedToken)) or not str(value)):
            raise TokenizerError(f"{self.name} must be a token", expected="a string or None", received=repr(value)[:80])
        tokenizer._name_token(self.name, None if value is None else str(value))


class _IdByName:
    """The attribute ``bos_token_id`` and its like: an id, or None. It can be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> int | None:
        token = None if tokenizer is None else tokenizer._named.get(self.name)
        return None if token is None or tokenizer is None else tokenizer.convert_tokens_to_ids(token)

    def __set__(self, tokenizer: SpecialTokens, value: int | None) -> None:
        token = None if value is None else tokenizer.convert_ids_to_tokens(value)
        if value is not None and token is None:
            raise TokenizerError("no token has this id", where=f"{self.name}_id", received=value)
        tokenizer._name_token(self.name, token)


class SpecialTokens(ABC):
    """Named and additional special tokens of a tokenizer. A name without a token is None."""

    bos_token, bos_token_id = _ByName(), _IdByName()
    eos_token, eos_token_id = _ByName(), _IdByName()
    unk_token, unk_token_id = _ByName(), _IdByName()
    sep_token, sep_token_id = _ByName(), _IdByName()
    pad_token, pad_token_id = _ByName(), _IdByName()
    cls_token, cls_token_id = _ByName(), _IdByName()
    mask_token, mask_token_id = _ByName(), _IdByName()

    _named: dict[str, str]
    _additional: list[str]

    @abstractmethod
    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...

    @abstractmethod
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any: ...

    @abstractmethod
    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int: ...

    def _name_token(self, name: str, token: str | None) -> None:
        if token is None:
            self._named.pop(name, None)
        else:
            self._named[name] = token
        self._special_tokens_changed()

    @abstractmethod
    def _special_tokens_changed(self) -> None:
        """A backend that remembers what is special forgets it here."""

    def _read_special_tokens(self, config: Mapping[str, Any], where: object) -> list[AddedToken]:
        """Take the names from a tokenizer_config; returns the tokens, for the backend to add those it lacks.

        Besides the seven standard names, any key that ends with ``_token`` and holds a token is one (a model's own
        ``image_token``), as in transformers 5.
        """
        named: dict[str, AddedToken] = {}
        for name, value in config.items():
            if (name in NAMES and value is not None) or (
                name.endswith("_token") and name not in NAMES and isinstance(value, (str, Mapping))
            ):
                named[name] = as_added_token(value, where, special=True)
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        for own in (config.get("model_specific_special_tokens"), extra):
            if isinstance(own, Mapping):
                named |= {name: as_added_token(value, where, special=True) for name, value in own.items()}
        extra = [] if isinstance(extra, Mapping) else extra
        additional = [as_added_token(value, where, special=True) for value in extra]
        standard_first = sorted(named, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))
        self._named = {name: named[name].content for name in standard_first}
        self._additional = [token.content for token in additional]
        return [*(named[name] for name in standard_first), *additional]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Name → token, for the names that have one."""
        return dict(self._named)

    @property
    def additional_special_tokens(self) -> list[str]:
        return list(self._additional)

    @property
    def all_special_tokens(self) -> list[str]:
        """Named and additional special tokens, each once."""
        return list(dict.fromkeys([*self._named.values(), *self._additional]))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_special_tokens(self, special_tokens: Mapping[str, Any]) -> int:
        """Name special tokens, adding those that the vocabulary lacks: ``{"pad_token": "<pad>"}``.

        Returns how many were added. ``additional_special_tokens`` takes a list.
        """
        added = 0
        for name, value in special_tokens.items():
            if name in ("additional_special_tokens", "extra_special_tokens"):
                tokens = [as_added_token(token, name, special=True) for token in value]
                added += self.add_tokens(tokens, special_tokens=True)
                self._additional = list(dict.fromkeys([*self._additional, *map(str, tokens)]))
            elif name in NAMES:
                token = as_added_token(value, name, special=True)
                added += self.add_tokens([token], special_tokens=True)
                self._name_token(name, token.content)
            else:
                raise TokenizerError("no such special token", expected=", ".join(NAMES), received=repr(name))
        self._special_tokens_changed()
        return added
