"""``trace``: run the model as it runs, and keep every number of every step."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.explain.checks import TOLERANCES, Checks, check
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.prompt import Prompt, read_prompt
from pellucid.explain.recording import Recording
from pellucid.explain.step import Step, make_step
from pellucid.model.attend import explicit, sdpa
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.operations import Tap, taps_of

if TYPE_CHECKING:
    from pellucid.explain.questions.surprise import Surprise

MAX_BYTES = 2 * 2**30


class Trace(Mapping[str, Tensor]):
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
        return f"Trace({self.config.model_type}, {batch} × {length} tokens, {len(self)} steps, {self.nbytes / 2**20:.1f} MiB)"

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

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values())

    @property
    def model_summary(self) -> dict[str, Any]:
        """What kind of model this is, as plain numbers and words."""
        config, layer = self.config, self.config.layers[0]
        attention = layer.mixer
        return {
            "model_type": config.model_type,
            "num_parameters": config.num_parameters(),
            "num_layers": config.num_layers,
            "d_model": config.d_model,
            "num_heads": attention.num_heads,
            "num_kv_heads": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "d_ff": layer.mlp.d_ff,
            "activation": layer.mlp.activation,
            "gated": layer.mlp.gated,
            "vocab_size": config.vocab_size,
            "context_len": config.context_len,
            "norm": next(iter(layer.norms.values())).kind,
            "norm_order": "post" if layer.mixer_norms.sum else "pre",
            "position": "rotary" if attention.rope else config.position,
            "tie_embeddings": config.tie_embeddings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
        }

    def step(self, path: str) -> Step:
        """What this step is: equation, axes, inputs, weights, meaning, line of code, range of its numbers."""
        return make_step(self, path)

    @cached_property
    def checks(self) -> Checks:
        """Every identity that this model has, recomputed from the recorded numbers. The first look runs the fast path
        once more.
        """
        return check(self)

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
        if any(path.endswith((".scores", ".pattern")) for path in self.edited):
            return None
        recorder = Recording(
            self.model, lambda path: False, edits=[edit for edit in self.edits if isinstance(edit, Edit)]
        )
        hidden = self.model.hidden(self.token_ids, _context(self.prompt, attend=sdpa, recorder=recorder))
        return self.model.logits(hidden[:, self.positions], Context(self.position_ids, recorder=recorder))

    def surprise(self, targets: Any = None) -> Surprise:
        """Probability, nats and bits of each position's target; by default the token that comes next. See ``surprise``."""
        from pellucid.explain.questions.surprise import surprise

        return surprise(self, targets)

    def plot(self, path: str, **options: Any) -> Any:
        """A heat map of a step with its tokens as rulers; see ``explain.plot.plot``."""
        from pellucid.explain.show.plot import plot

        return plot(self, path, **options)

    def save(self, path: Any, **options: Any) -> None:
        """The interactive page in one file that works offline."""
        from pellucid.explain.show.html import write_page

        write_page(self, path, **options)


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


@torch.no_grad()
def trace(
    model: Decoder,
    tokenizer: Any,
    text: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor,
    *,
    steps: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    edits: Sequence[Edit | SwapToken] = (),
    max_bytes: int = MAX_BYTES,
) -> Trace:
    """Run ``text`` through ``model`` and record its steps.

    ``text``: a text, several (a batch, padded), token ids, or lists of them; ``tokenizer`` may be None for ids.
    ``steps`` chooses by path or name, with wildcards (``"pattern"``, ``"layers.3.*"``); ``layers`` and ``positions`` by
    number, from the end if negative. ``edits`` replace values on the way. Dropout is never on: the run is the one that
    ``model.eval()`` gives.

    Raises: RequestError for a step, layer or position that is not there, TooLargeError where the record would take more
    than ``max_bytes``.
    """
    prompt = read_prompt(model, tokenizer, text, [edit for edit in edits if isinstance(edit, SwapToken)])
    taps, length = taps_of(model.config), prompt.token_ids.shape[1]
    chosen_layers = None if layers is None else {_in_range("layer", layer, model.config.num_layers) for layer in layers}
    chosen = (
        list(range(length))
        if positions is None
        else sorted({_in_range("position", position, length) for position in positions})
    )
    wanted = {
        path for path, tap in taps.items() if tap.layer is None or chosen_layers is None or tap.layer in chosen_layers
    }
    if steps is not None:
        wanted &= {path for step in steps for path in _matching(step, taps, model.config)}
    value_edits = [edit for edit in edits if isinstance(edit, Edit)]
    for edit in value_edits:
        if edit.path not in taps:
            raise UnknownStepError(edit.path, model.config)
    _check_memory(
        model, [taps[path] for path in taps if path in wanted], prompt.token_ids.shape, len(chosen), max_bytes
    )

    columns = torch.tensor(chosen, device=model.device)

    def narrow(path: str, value: Tensor) -> Tensor:
        """The chosen positions; logits come narrow already."""
        axes = taps[path].axes
        return (
            value if path == "logits" or "position" not in axes else value.index_select(axes.index("position"), columns)
        )

    partial = len(chosen) != length
    recording = Recording(model, wanted.__contains__, narrow=narrow if partial else None, edits=value_edits)
    was_training = model.training
    model.eval()
    try:
        ctx = _context(prompt, attend=explicit, recorder=recording)
        hidden = model.hidden(prompt.token_ids, ctx)
        model.logits(hidden[:, chosen] if partial else hidden, ctx)
    finally:
        model.train(was_training)
    return Trace(model, prompt, recording.values, chosen, edits, recording.edited)


def _context(prompt: Prompt, **given: Any) -> Context:
    return Context(prompt.position_ids, key_mask=None if bool(prompt.mask.all()) else prompt.mask, **given)


def _in_range(what: str, index: int, size: int) -> int:
    if not -size <= index < size:
        raise RequestError(f"there is no {what} {index}", expected=f"{-size} to {size - 1}")
    return index % size


def _matching(step: str, taps: Mapping[str, Tap], config: ModelConfig) -> list[str]:
    found = [
        path
        for path, tap in taps.items()
        if tap.name == step or fnmatch.fnmatchcase(path, step) or fnmatch.fnmatchcase(tap.name, step)
    ]
    if not found:
        raise UnknownStepError(step, config)
    return found


def _check_memory(model: Decoder, taps: Sequence[Tap], shape: Sequence[int], positions: int, max_bytes: int) -> None:
    """Raises: TooLargeError, before anything is computed, where the kept values would exceed the limit."""
    size, (batch, length) = model.embed.weight.element_size(), shape
    by_name: dict[str, int] = {}
    for tap in taps:
        numbers = 1
        for width in tap.shape(batch, positions, length):
            numbers *= width
        by_name[tap.name] = by_name.get(tap.name, 0) + numbers * size
    total = sum(by_name.values())
    if total <= max_bytes:
        return
    largest = sorted(by_name.items(), key=lambda item: -item[1])[:3]
    raise TooLargeError(
        f"recording {len(taps)} steps of {batch} × {length} tokens would take {_bytes(total)}",
        expected=f"at most {_bytes(max_bytes)}",
        received="the largest are " + ", ".join(f"{name} {_bytes(number)}" for name, number in largest),
        remedy="choose less: steps=['pattern', 'resid_post'], layers=[0, -1], positions=[-1]; or raise max_bytes",
    )


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**29 else f"{number / 2**20:.1f} MiB"
