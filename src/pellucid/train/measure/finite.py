"""No figure is made of numbers that are not finite: the tensor that holds the first of them is named instead."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.base.errors import NotFiniteError
from pellucid.model.decoder import Decoder
from pellucid.model.finite import first_not_finite


def check_weights(decoder: Decoder) -> None:
    """Worth a look before anything is measured: a kernel may hide a NaN in a key behind logits that are all finite.

    Raises: NotFiniteError naming the first weight that is not finite.
    """
    if (weight := first_not_finite(decoder)) is not None:
        raise weight.error()


def check_finite(decoder: Decoder, token_ids: Tensor, value: float | Tensor, what: str) -> None:
    """Raises: NotFiniteError where ``value``, which the model made of ``token_ids`` (B, T), is not finite."""
    if bool(torch.isfinite(torch.as_tensor(value)).all()):
        return
    if (first := first_not_finite(decoder, token_ids)) is not None:
        raise first.error()
    raise NotFiniteError(f"{what} is not finite, though all values of the model are", received=float(value))
