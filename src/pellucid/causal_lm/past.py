"""``PastKeyValues``: what a forward leaves behind for the next tokens of the same texts."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.model.cache import Cache

ROOM = 256  # tokens that a cache has room for beyond those it is made for; then it doubles


class PastKeyValues:
    """The states of all layers, and which of the tokens seen were padding. It is changed in place, as transformers'
    ``DynamicCache`` is: a forward that is given it adds its tokens to it.
    """

    def __init__(
        self, config: ModelConfig, batch: int, length: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.cache = Cache(config, batch, length + ROOM, dtype, device)
        self.mask: Bool[Tensor, "B S"] | None = None  # False for padding; None: there is none

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen."""
        return self.cache.length

    def __len__(self) -> int:
        return len(self.cache.layers)

    def crop(self, max_length: int) -> None:
        """Forget all but the first ``max_length`` tokens; less than 0: all but the last so many.

        Raises: UnsupportedError where a layer's state cannot go back.
        """
        self.cache.truncate(max_length if max_length >= 0 else self.cache.length + max_length)
        if self.mask is not None:
            self.mask = self.mask[:, : self.cache.length]

    def take(self, added: int, batch: int) -> None:
        """Room for more tokens. Raises: RequestError for another number of texts."""
        if batch != self.cache.batch:
            raise RequestError(
                "past_key_values are of another number of texts", expected=self.cache.batch, received=batch
            )
        if self.cache.length + added > self.cache.capacity:
            self.cache = self.cache.fork(2 * (self.cache.length + added))

    def mask_of_all(self, mask: Tensor | None, added: int) -> Tensor | None:
        """Which of all tokens are none of padding, from a mask of the new ones or of all; None: all of them."""
        seen, batch = self.cache.length, self.cache.batch
        if mask is None and self.mask is None:
            return None
        if mask is not None and mask.shape[1] == seen + added:
            whole = mask.bool()
        elif mask is None or mask.shape[1] == added:
            device = self.cache.device
            before = torch.ones(batch, seen, dtype=torch.bool, device=device) if self.mask is None else self.mask
            new = torch.ones(batch, added, dtype=torch.bool, device=device) if mask is None else mask.bool()
            whole = torch.cat((before, new), 1)
        else:
            raise RequestError(
                "attention_mask must cover the new tokens, or these and all before them",
                expected=f"{added} or {seen + added} columns",
                received=mask.shape[1],
            )
        self.mask = None if bool(whole.all()) else whole
        return self.mask
