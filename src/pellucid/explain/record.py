"""``Record``: one run's numbers under the names of their steps. Everything that asks about a run asks this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.explain.code import line_in_torch
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.prompt import Prompt
from pellucid.explain.recording import Recording
from pellucid.model.attend import sdpa
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.operations import Tap, taps_of

# Of the largest value. Rounding alone gives about 1e-6 in float32, 1e-3 in float16, 1e-2 in bfloat16.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class Record(Mapping[str, Tensor]):
    """One run of a model: tap path → tensor, in the order of computation.

    Sizes: B texts, T tokens in the longest. ``positions`` are the columns that were kept (all, unless chosen); the
    position axis of every tensor has one entry for each, while keys and values are always whole, since every query
    looks at them. The weights are the model's own, not copies: a trace explains the model as it is, so make it anew
    after training on.
    """

    executor = "torch"
    recomputed: frozenset[str] = frozenset()  # steps that the run itself never held, computed for show

    def __init__(
        self,
        model: Decoder,
        prompt: Prompt,
        values: Mapping[str, Tensor],
        positions: Sequence[int],
        edits: Sequence[Edit | SwapToken],
        edited: Iterable[str] = (),
    ) -> None:
        self.model, self.prompt, self.edits = model, prompt, tuple(edits)
        self.positions = list(positions)
        self.edited = frozenset(edited)
        self.turns: dict[Any, Any] = {}  # rotary angles in float64 that were asked for
        self.taps: dict[str, Tap] = taps_of(model.config)
        self._values = {path: values[path] for path in self.taps if path in values}

    def __getitem__(self, path: str) -> Tensor:
        if path in self._values:
            return self._values[path]
        if path in self.taps:
            raise NotRecordedError(path)
        raise UnknownStepError(path, self.config)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        batch, length = self.token_ids.shape
        what, size = f"{batch} × {length} tokens, {len(self)} steps", f"{self.nbytes / 2**20:.1f} MiB"
        return f"{type(self).__name__}({self.config.model_type}, {what}, {size})"

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def token_ids(self) -> Tensor:
        """(B, T) what the model read, padding included."""
        return self.prompt.token_ids

    @property
    def mask(self) -> Tensor:
        """(B, T) True for tokens, False for padding."""
        return self.prompt.mask

    @property
    def position_ids(self) -> Tensor:
        """(B, T) the place of each token in its own text."""
        return self.prompt.position_ids

    @property
    def tokens(self) -> list[list[int]]:
        """Each text's ids, without padding."""
        return [row[mask].tolist() for row, mask in zip(self.token_ids, self.mask, strict=True)]

    @cached_property
    def pieces(self) -> list[list[str]]:
        """Each text's tokens as they read, padding included as ``""``; ids where there is no tokenizer."""
        return [
            [self.piece(int(i)) if real else "" for i, real in zip(row, mask, strict=True)]
            for row, mask in zip(self.token_ids, self.mask, strict=True)
        ]

    def piece(self, token_id: int) -> str:
        """The text of any token of the vocabulary."""
        return self.prompt.piece(token_id)

    @property
    def is_partial(self) -> bool:
        """True where only some positions were kept."""
        return len(self.positions) != self.token_ids.shape[1]

    def first_not_finite(self) -> str | None:
        """The first step that holds a NaN, or an infinity that is no mask; None where all is well."""

        def is_bad(path: str, value: Tensor) -> bool:
            bad = ~value.isfinite()
            if path.endswith(".scores"):  # −∞ is what they hold where a query may not see a key
                bad &= ~value.isneginf()
            return bool(bad.any())

        return next((path for path, value in self.items() if is_bad(path, value)), None)

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values())

    @property
    def model_summary(self) -> dict[str, Any]:
        """What kind of model this is, as plain numbers and words."""
        config, layer = self.config, self.config.layers[0]
        attention = next((layer.attends for layer in config.layers if layer.attends), None)
        mlp = next((layer.mlp for layer in config.layers if layer.mlp), None)
        return {
            "model_type": config.model_type,
            "num_parameters": config.num_parameters(),
            "num_layers": config.num_layers,
            "d_model": config.d_model,
            "mixers": list(dict.fromkeys(layer.mixer.name for layer in config.layers if layer.mixer)),
            "num_heads": attention.num_heads if attention else 0,
            "num_kv_heads": attention.num_kv_heads if attention else 0,
            "head_dim": attention.head_dim if attention else 0,
            "d_ff": mlp.d_ff if mlp else 0,
            "activation": mlp.activation if mlp else None,
            "gated": mlp.gated if mlp else False,
            "vocab_size": config.vocab_size,
            "context_len": config.context_len,
            "norms": {name: norm.kind for name, norm in layer.norms.items()},
            "parallel": layer.parallel,
            "position": "rotary" if config.ropes else config.position,
            "tie_embeddings": config.tie_embeddings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
        }

    def tap(self, path: str) -> Tap:
        """The description of a step, recorded or not. Raises: UnknownStepError."""
        if path not in self.taps:
            raise UnknownStepError(path, self.config)
        return self.taps[path]

    def weight(self, name: str) -> Tensor:
        """A weight of the model by its name; it is the model's own, not a copy."""
        return self.model.get_parameter(name)

    def column(self, path: str, position: int) -> int:
        """Where on the position (or key) axis of a step a position of the text is found.

        Raises: RequestError where it is out of range or was not kept.
        """
        length = self.token_ids.shape[1]
        if not -length <= position < length:
            raise RequestError(
                "there is no such position", where=path, expected=f"{-length} to {length - 1}", received=position
            )
        position %= length
        if "key" in self.tap(path).axes and "position" not in self.tap(path).axes:
            return position
        if position not in self.positions:
            raise RequestError(
                f"position {position} was not kept", where=path, remedy="name it in positions= when tracing"
            )
        return self.positions.index(position)

    def line(self, path: str) -> str:
        """File and line of the code that computes a step."""
        return line_in_torch(self.tap(path))

    def precision(self) -> dict[str, Any] | None:
        """How far the run is from torch's float32, step by step, as plain numbers; None where it is torch's own."""
        return None

    def tolerance(self, path: str) -> float:
        """The largest error that its rounding excuses, as a share of the step's largest value."""
        return TOLERANCES[self.model.dtype]

    @torch.no_grad()
    def fast_logits(self) -> Tensor | None:
        """(B, positions, V) logits of the same run through the fused kernel; None where an edit needs the explicit one.

        None as well for a mixture of experts in half precision: there another rounding sends a token to another expert.
        """
        if self.model.dtype in (torch.float16, torch.bfloat16) and any(layer.experts for layer in self.config.layers):
            return None
        if any(tap.inside_the_kernel for tap in map(self.tap, self.edited)):
            return None
        recorder = Recording(
            self.model, lambda path: False, edits=[edit for edit in self.edits if isinstance(edit, Edit)]
        )
        hidden = self.model.hidden(self.token_ids, self.prompt.context(attend=sdpa, recorder=recorder))
        return self.model.logits(hidden[:, self.positions], Context(self.position_ids, recorder=recorder))


class UnknownStepError(RequestError, KeyError):
    """A step that this model does not have."""

    def __init__(self, path: str, config: ModelConfig) -> None:
        names = list(taps_of(config))
        near = [name for name in names if name.rpartition(".")[2] == path.rpartition(".")[2]]
        received = None if not near else f"layers are 0 to {config.num_layers - 1}"
        super().__init__(
            f"{config.model_type} has no step {path!r}",
            received=received,
            remedy=f"steps are {', '.join(near[:2] or _kinds(names))}, …",
        )

    __str__ = Exception.__str__


class NotRecordedError(RequestError, KeyError):
    """A step that this trace left out."""

    def __init__(self, path: str) -> None:
        super().__init__(
            "this step was not recorded", where=path, remedy=f"trace it: steps=[…, {path!r}], and its layer in layers="
        )

    __str__ = Exception.__str__


class TooLargeError(RequestError):
    """A record that would take more memory than allowed."""


def _kinds(names: Sequence[str]) -> list[str]:
    return list(
        dict.fromkeys(
            name.replace("layers.0.", "layers.N.")
            for name in names
            if not name.startswith("layers.") or "layers.0." in name
        )
    )
