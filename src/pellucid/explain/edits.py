"""Edits: what happens if a head is silenced, a vector is taken from another run, a token is another one.

Edits go through the same taps that are shown, so an edited run is the model's own forward with one value replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.base.errors import RequestError


@dataclass(frozen=True)
class Edit:
    """Replace the value at ``path`` by ``fn(value, path)``, of the same shape and dtype."""

    path: str
    fn: Callable[[Tensor, str], Tensor]
    label: str = ""

    def apply(self, value: Tensor, path: str) -> Tensor:
        """Raises: RequestError where the replacement has another shape."""
        new = self.fn(value, path)
        if new.shape != value.shape:
            raise RequestError(
                "an edit must keep the shape", where=path, expected=tuple(value.shape), received=tuple(new.shape)
            )
        return new.to(value.dtype)

    def __str__(self) -> str:
        return self.label or f"edit {self.path}"


def Ablate(
    where: str,
    *,
    head: int | None = None,
    neuron: int | None = None,
    expert: int | None = None,
    positions: Sequence[int] | None = None,
) -> Edit:
    """Set to zero: a head's ``z`` (``Ablate("layers.3", head=2)``), a neuron (``Ablate("layers.3", neuron=40)``), what
    an expert counts for (``Ablate("layers.3", expert=5)``; the others keep their weights), or any whole tap by its
    path.

    ``positions`` limits it to some places of the text.
    """
    named = [name for name, index in (("head", head), ("neuron", neuron), ("expert", expert)) if index is not None]
    if len(named) > 1:
        raise RequestError(
            "ablate one thing at a time", where=where, received=" and ".join(named), remedy="give two edits"
        )
    part = where.rpartition(".")[2]
    if part.isdigit():
        if not named:
            raise RequestError(
                "a layer alone says not what to ablate",
                where=where,
                remedy=f"give head=, neuron=, expert=, or a tap: {where}.mlp_out",
            )
        path = f"{where}." + {"head": "z", "neuron": "mlp_act", "expert": "experts"}[named[0]]
    else:
        path = where

    def zero(value: Tensor, path: str) -> Tensor:
        value = value.clone()
        columns = _columns(value, path, positions)
        if head is not None:
            _check_index(path, "head", head, value.shape[1])
            value[:, head, columns] = 0
        elif neuron is not None:
            _check_index(path, "neuron", neuron, value.shape[-1])
            value[:, columns, neuron] = 0
        elif expert is not None:
            _check_index(path, "expert", expert, value.shape[-1])
            value[:, columns, expert] = 0
        elif value.ndim == 4:
            value[:, :, columns] = 0
        else:
            value[:, columns] = 0
        return value

    what = "".join(
        f"{name} {index} of "
        for name, index in (("head", head), ("neuron", neuron), ("expert", expert))
        if index is not None
    )
    at = "" if positions is None else f" at {list(positions)}"
    return Edit(path, zero, f"ablate {what}{where}{at}")


def Patch(
    path: str,
    source: Mapping[str, Tensor],
    *,
    positions: Sequence[int] | None = None,
    source_positions: Sequence[int] | None = None,
) -> Edit:
    """Put in the value that another run had there: at all positions, or at ``positions`` (taken from
    ``source_positions``, by default the same).
    """
    if path not in source:
        raise RequestError(
            "the run to patch from did not record this",
            where=path,
            remedy=f"trace it with steps=[{path!r}], or with all steps",
        )
    donor = source[path]
    if getattr(source, "is_partial", False):
        raise RequestError(
            "the run to patch from kept only some positions", where=path, remedy="trace it without positions="
        )
    if source_positions is not None and len(source_positions) != len(positions or ()):
        raise RequestError("source_positions must match positions, one for one", where=path)
    if source_positions is not None or positions is not None:
        _columns(donor, path, source_positions or positions)

    def patch(value: Tensor, path: str) -> Tensor:
        theirs = donor.to(value.device, value.dtype)
        if positions is None:
            return theirs.expand_as(value) if theirs.shape[1:] == value.shape[1:] else theirs
        value = value.clone()
        here, there = _columns(value, path, positions), _columns(theirs, path, source_positions or positions)
        axis = 2 if value.ndim == 4 else 1
        value.index_copy_(
            axis,
            here.to(value.device),
            theirs.index_select(axis, there.to(value.device)).expand_as(value.index_select(axis, here)),
        )
        return value

    at = "" if positions is None else f" at {list(positions)}"
    return Edit(path, patch, f"patch {path}{at}")


@dataclass(frozen=True)
class SwapToken:
    """Read another token at one position: an id, or a text that is one token."""

    position: int
    token: int | str
    row: int | None = None  # of the batch; None: every row

    def __str__(self) -> str:
        return f"token {self.position} → {self.token!r}"


def _columns(value: Tensor, path: str, positions: Sequence[int] | None) -> Tensor:
    length = value.shape[2 if value.ndim == 4 else 1]
    if positions is None:
        return torch.arange(length, device=value.device)
    for position in positions:
        _check_index(path, "position", position, length)
    return torch.tensor([position % length for position in positions], device=value.device)


def _check_index(path: str, what: str, index: int, size: int) -> None:
    if not -size <= index < size:
        raise RequestError(f"{what} {index} is out of range", where=path, expected=f"{-size} to {size - 1}")
