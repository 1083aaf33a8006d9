"""What a method of quantization gives: the weights that a file's tensors stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pellucid.checkpoint.quantized.deferred import Deferred
from pellucid.checkpoint.quantized.settings import Tensors


@dataclass(frozen=True)
class Logical:
    """One weight, its name as if it were not quantized, and the names of the tensors that it is made of; a name among
    them need not be there.
    """

    name: str
    parts: tuple[str, ...]
    array: Deferred


class Method:
    """``leaves`` are the last parts of names that only its tensors have. ``beside`` are those that say how other
    programs round activations or cached keys, which is not done here.
    """

    name: str
    leaves: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    attention_only = False  # whether its folders hold models with other mixers otherwise than transformers' do

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        """Every quantized weight there is; ``dtype`` is that of those that no block format holds exactly."""
        raise NotImplementedError
