"""From encoded texts to a table: which length to cut and pad to, and the columns that a model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.encoding import BatchEncoding, Encoded, pad_columns
from pellucid.text.special_tokens import SpecialTokens

UNLIMITED = int(1e30)  # model_max_length where the config names none, as in transformers
TRUNCATIONS = {
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}
PADDINGS = {
    False: None,
    None: None,
    "do_not_pad": None,
    True: "longest",
    "longest": "longest",
    "max_length": "max_length",
}


class Batching(SpecialTokens):
    """The part of a tokenizer that makes tables."""

    where: object
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    model_max_length: int
    padding_side: str = "right"

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad encoded texts to one table; the collate step of a data loader."""
        if not isinstance(encoded_inputs, Mapping):
            encoded_inputs = (
                {name: [plain(one[name]) for one in encoded_inputs] for name in encoded_inputs[0]}
                if encoded_inputs
                else {}
            )
        columns = {name: plain(rows) for name, rows in encoded_inputs.items()}
        if "input_ids" not in columns:
            raise TokenizerError("nothing to pad", expected="input_ids", received=", ".join(columns) or "no columns")
        batched = not columns["input_ids"] or isinstance(columns["input_ids"][0], list)
        rows = {name: list(rows) if batched else [rows] for name, rows in columns.items()}
        rows.setdefault("attention_mask", [[1] * len(row) for row in rows["input_ids"]])
        self._pad(rows, padding, max_length, pad_to_multiple_of, padding_side)
        return _batch(rows, batched, return_tensors)

    def columns(
        self,
        encoded: Sequence[Encoded],
        batched: bool,
        *,
        padding: bool | str,
        max_length: int | None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        return_attention_mask: bool | None = None,
        more: Mapping[str, list[list[Any]]] | None = None,
    ) -> BatchEncoding:
        """The columns of encoded texts: ids, then what the model reads beside them, then ``more``; padded."""
        rows: dict[str, list[list[Any]]] = {"input_ids": [one.ids for one in encoded]}
        if return_attention_mask or (return_attention_mask is None and "attention_mask" in self.model_input_names):
            rows["attention_mask"] = [[1] * len(one.ids) for one in encoded]
        if "position_ids" in self.model_input_names:
            rows["position_ids"] = [list(range(len(one.ids))) for one in encoded]
        if return_offsets_mapping:
            rows["offset_mapping"] = [list(one.offsets or []) for one in encoded]
        rows |= more or {}
        self._pad(rows, padding, max_length, pad_to_multiple_of, padding_side)
        return _batch(rows, batched, return_tensors)

    def _pad(
        self,
        rows: dict[str, list[list[Any]]],
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: str | None,
    ) -> None:
        if padding not in PADDINGS:
            raise TokenizerError(
                "padding is unknown", expected="True, False, 'longest' or 'max_length'", received=repr(padding)
            )
        strategy = PADDINGS[padding]
        if strategy == "max_length" and max_length is None:
            max_length = self.model_max_length
            strategy = strategy if max_length < UNLIMITED else None
        if strategy is None or not rows["input_ids"]:
            return
        pad_token_id = self.pad_token_id
        if pad_token_id is None:
            raise TokenizerError(
                "asked to pad, but there is no padding token",
                where=self.where,
                remedy="set one: tokenizer.pad_token = tokenizer.eos_token, or "
                "tokenizer.add_special_tokens({'pad_token': '[PAD]'})",
            )
        length = max(len(row) for row in rows["input_ids"]) if strategy == "longest" else int(max_length or 0)
        if multiple:
            length = -(-length // multiple) * multiple
        pad_columns(rows, length, checked_side(side or self.padding_side, "padding_side", self.where), pad_token_id)

    def truncation_of(
        self, truncation: bool | str | None, max_length: int | None, padding: bool | str
    ) -> tuple[str | None, int | None]:
        """(strategy, length) to cut to, both None for no cutting. Raises: TokenizerError for one that is unknown."""
        if truncation is None and max_length is not None and padding is False:
            truncation = True  # as in transformers: max_length alone asks for truncation
        if truncation in (None, False, "do_not_truncate"):
            return None, None
        if truncation not in TRUNCATIONS:
            raise TokenizerError(
                "truncation is unknown",
                expected="True, False, " + ", ".join(list(TRUNCATIONS)[1:]),
                received=repr(truncation),
            )
        limit = self.model_max_length if max_length is None else max_length
        if limit < 0:
            raise TokenizerError("max_length must not be negative", received=max_length)
        return (TRUNCATIONS[truncation], limit) if limit < UNLIMITED else (None, None)


def checked_side(value: Any, name: str, where: object) -> str:
    """``left`` or ``right``. Raises: TokenizerError for anything else."""
    if value not in ("left", "right"):
        raise TokenizerError(f"{name} is unknown", where=where, expected="left or right", received=repr(value))
    return value


def plain(values: Any) -> Any:
    """Arrays and tensors as lists or ints."""
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, Iterable) and not isinstance(values, (list, str)):
        return list(values)
    return values


def _batch(rows: dict[str, list[list[Any]]], batched: bool, return_tensors: str | None) -> BatchEncoding:
    if return_tensors is None and not batched:
        return BatchEncoding({name: values[0] for name, values in rows.items()})
    return BatchEncoding(rows).convert_to_tensors(return_tensors)
