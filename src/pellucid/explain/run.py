"""``record``: run the model as it runs, and keep every number of every step."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.prompt import read_prompt
from pellucid.explain.record import Record, TooLargeError, UnknownStepError
from pellucid.explain.recording import Recording
from pellucid.model.attend import explicit
from pellucid.model.decoder import Decoder
from pellucid.operations import Tap, taps_of

MAX_BYTES = 2 * 2**30


@torch.no_grad()
def record(
    model: Decoder,
    tokenizer: Any,
    text: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor,
    *,
    steps: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    edits: Sequence[Edit | SwapToken] = (),
    max_bytes: int = MAX_BYTES,
) -> Record:
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
        ctx = prompt.context(attend=explicit, recorder=recording)
        hidden = model.hidden(prompt.token_ids, ctx)
        model.logits(hidden[:, chosen] if partial else hidden, ctx)
    finally:
        model.train(was_training)
    return Record(model, prompt, recording.values, chosen, edits, recording.edited)


def _in_range(what: str, index: int, size: int) -> int:
    if not -size <= index < size:
        raise RequestError(f"there is no {what} {index}", expected=f"{-size} to {size - 1}")
    return index % size


def _matching(step: str, taps: Mapping[str, Tap], config: ModelConfig) -> list[str]:
    matches = [
        path
        for path, tap in taps.items()
        if tap.name == step or fnmatch.fnmatchcase(path, step) or fnmatch.fnmatchcase(tap.name, step)
    ]
    if not matches:
        raise UnknownStepError(step, config)
    return matches


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
