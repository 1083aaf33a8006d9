"""Embeddings, and a head, for another number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.base.errors import ConfigError
from pellucid.model.decoder import Decoder


def resize(decoder: Decoder, tokens: int, *, mean: bool = True) -> None:
    """Rows for ``tokens`` tokens; new ones are the mean of the old, or N(0, 0.02²).

    Raises: ConfigError for no tokens, or a head whose weights are in blocks.
    """
    if tokens < 1:
        raise ConfigError("a model has at least one token", received=tokens)
    tables = [decoder.embed] if decoder.head is None else [decoder.embed, decoder.head]
    for table in tables:
        weight = getattr(table, "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise ConfigError("a table in blocks cannot be resized", remedy="load the model without quantize")
        table.weight = _resized(weight, tokens, mean)
        for name in ("num_embeddings", "out_features"):
            if hasattr(table, name):
                setattr(table, name, tokens)
        if (bias := getattr(table, "bias", None)) is not None:
            table.bias = _resized(bias, tokens, mean)
    object.__setattr__(decoder.config, "vocab_size", tokens)


def _resized(weight: nn.Parameter, rows: int, mean: bool) -> nn.Parameter:
    kept: Tensor = weight.data[:rows]
    if rows > len(kept):
        new = weight.data.float().mean(0).expand(rows - len(kept), *weight.shape[1:])
        if not mean:
            new = torch.empty_like(new).normal_(0.0, 0.02)
        kept = torch.cat((kept, new.to(kept.dtype)))
    return nn.Parameter(kept.clone(), requires_grad=weight.requires_grad)
