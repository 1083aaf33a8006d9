"""When a loss is no number: where it went wrong first."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.base.errors import PellucidError
from pellucid.model.decoder import Decoder
from pellucid.model.finite import NotFinite, first_not_finite
from pellucid.train.data.batch import Batch


class TrainingError(PellucidError, ArithmeticError):
    """A loss or gradient that is not finite, or a loss that leapt; names step, batch, and the first tap or weight that
    is wrong.
    """


def first_bad_value(model: Decoder, batch: Batch) -> NotFinite | None:
    """What is first not finite in the forward pass of a batch; None where all is well."""
    return first_not_finite(model, batch.token_ids, batch.context())


def bad_gradients(model: nn.Module) -> list[str]:
    """Weights whose gradient is not finite, in the order of computation."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
