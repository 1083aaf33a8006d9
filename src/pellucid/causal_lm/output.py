"""What calls give back: by attribute, by key, or by place, as transformers' ``ModelOutput`` is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor


class Output(OrderedDict):
    """``out.logits``, ``out["logits"]``, ``out[0]``, ``loss, logits = out``-like: what is None is not there.

    It is a mapping in truth, so that whoever gathers outputs of several processes (accelerate) can walk it.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
            if (value := getattr(self, each.name)) is not None:
                super().__setitem__(each.name, value)

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(at) if isinstance(at, str) else self.to_tuple()[at]

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in self.keys():
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


@dataclass(eq=False)
class CausalLMOutput(Output):
    """Of a forward pass: ``logits`` (B, T, V), and, where they were asked for, ``loss``, a scalar; the states that the
    next tokens go on from; the stream before the first layer and after each, the last one after the final norm, each
    (B, T, D); each attending layer's pattern, (B, H, T, S).
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "B T V"] = None  # type: ignore[assignment]
    past_key_values: Any = None
    hidden_states: tuple[Float[Tensor, "B T D"], ...] | None = None
    attentions: tuple[Float[Tensor, "B H T S"], ...] | None = None


@dataclass(eq=False)
class BackboneOutput(Output):
    """Of a pass without the head: the stream after the final norm (B, T, D), and the rest as a forward's."""

    last_hidden_state: Float[Tensor, "B T D"] = None  # type: ignore[assignment]
    past_key_values: Any = None
    hidden_states: tuple[Float[Tensor, "B T D"], ...] | None = None
    attentions: tuple[Float[Tensor, "B H T S"], ...] | None = None


@dataclass(eq=False)
class GenerateOutput(Output):
    """Of ``generate(return_dict_in_generate=True)``: ``sequences`` (B, T + new), and for each new token, where asked
    for, the logits as the model gave them, and the scores that the choice was made from, both (B, V).
    """

    sequences: Int[Tensor, "B T_new"] = None  # type: ignore[assignment]
    scores: tuple[Float[Tensor, "B V"], ...] | None = None
    logits: tuple[Float[Tensor, "B V"], ...] | None = None
    sequences_scores: Float[Tensor, "B"] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Any = None
