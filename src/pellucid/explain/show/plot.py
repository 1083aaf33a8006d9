"""Pictures for notebooks and scripts: heat maps with the text's own tokens as rulers.

Signed values are drawn blue–white–orange with zero white, shares (the attention pattern) white to blue from 0 to 1.
What must not be seen is grey. matplotlib is an extra: ``pip install pellucid[plot]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError, UnsupportedError
from pellucid.explain.prompt import piece_of
from pellucid.explain.record import Record
from pellucid.explain.show.fonts import families, readable
from pellucid.model.decoder import Decoder
from pellucid.model.position import rotation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BLUE, ORANGE, GREY = "#2166ac", "#d9730d", "#e3e3e3"  # the page's, told apart with any colour vision
LABELS = 48  # more tokens than this get a label only every so often
TOP_TOKENS = 24  # of the vocabulary, where the axis is the vocabulary


def plot(
    trace: Record, path: str, *, head: int | None = None, row: int = 0, ax: Axes | None = None, title: str | None = None
) -> Any:
    """A heat map of one step of one text.

    A step by head is drawn for ``head``, or, without it, for all heads as small maps. Returns the matplotlib Axes, or
    an array of them.

    Raises: UnsupportedError where matplotlib is absent; RequestError for a head that is not there.
    """
    step, value = trace.tap(path), trace[path][row].float().cpu()
    head_axis = next((axis for axis in ("head", "kv_head") if axis in step.axes), None)
    if head_axis is None:
        return _draw(trace, path, value, row, ax, title or f"{path}: {step.words.title}")
    if head is not None:
        if not -len(value) <= head < len(value):
            raise RequestError(f"there is no head {head}", where=path, expected=f"0 to {len(value) - 1}")
        return _draw(
            trace, path, value[head], row, ax, title or f"{path}, head {head % len(value)}: {step.words.title}"
        )
    plt = _pyplot()
    columns = math.ceil(math.sqrt(len(value)))
    rows = math.ceil(len(value) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.6 * rows), layout="constrained", squeeze=False)
    figure.suptitle(title or f"{path}: {step.words.title}")
    for i, axes in enumerate(grid.flat):
        if i < len(value):
            _draw(trace, path, value[i], row, axes, f"head {i}", small=True)
        else:
            axes.axis("off")
    return grid


def plot_positions(model: Decoder, length: int = 64, *, layer: int = 0, ax: Axes | None = None) -> Axes:
    """How the model tells positions apart: its sinusoidal or learned table, or the cosines of its rotary angles.
    (length, dimensions)
    """
    config, attention = model.config, model.config.layers[layer].attends
    length = min(length, config.context_len)
    if (table := model._position_table()) is not None:
        title = (
            "Sinusoidal positions: sin and cos of t / 10000^(2i/d)"
            if config.position == "sinusoidal"
            else "Learned positions"
        )
        values, name = table[:length].float().cpu(), "dimension"
    elif attention is not None and attention.rope is not None:
        positions = torch.arange(length)[None]
        cos, _ = rotation(attention.rope, positions, torch.full_like(positions, length), torch.float32)
        values, title, name = (
            cos[0, 0],
            f"Rotary positions: cos of the angle, θ = {attention.rope.theta:g}",
            "pair of dimensions",
        )
    else:
        raise RequestError("this model has no positions of its own", where=config.model_type)
    axes = heat_map(values, ax, title)
    axes.set(xlabel=name, ylabel="position")
    return axes


def plot_embedding(
    model: Decoder, tokenizer: Any, text: str | Sequence[int], *, dimensions: int | None = None, ax: Axes | None = None
) -> Axes:
    """The rows of the embedding table that a text looks up: a row for each token. (tokens, dimensions)"""
    ids = list(tokenizer(text)["input_ids"]) if isinstance(text, str) else list(text)
    labels = [str(i) if tokenizer is None else piece_of(tokenizer, i) for i in ids]
    axes = heat_map(model.embed.weight[ids][:, :dimensions].float().cpu(), ax, "Rows of the embedding table")
    axes.set(xlabel="dimension")
    ruler(axes.yaxis, labels)
    return axes


def _draw(trace: Record, path: str, value: Tensor, row: int, ax: Axes | None, title: str, small: bool = False) -> Axes:
    down, across = (axis for axis in trace.tap(path).axes if axis not in ("batch", "head", "kv_head"))
    pieces = trace.pieces[row]
    labels = {"position": [pieces[i] for i in trace.positions], "key": pieces}
    if across == "token":
        ids = value[-1].topk(min(TOP_TOKENS, value.shape[-1])).indices
        value, labels["token"] = value[:, ids], [trace.piece(i) for i in ids.tolist()]
    axes = heat_map(value, ax, title, shares=trace.tap(path).operation.of_one, bar=not small)
    for axis, name in ((axes.yaxis, down), (axes.xaxis, across)):
        if small:
            axis.set_ticks([])
        elif name in labels:
            ruler(axis, labels[name])
        else:
            axis.set_label_text(name.replace("_", " "))
    if not small and across == "key":
        axes.set(xlabel="looks at", ylabel="token")
    return axes


def heat_map(
    values: Tensor,
    ax: Axes | None,
    title: str,
    *,
    shares: bool = False,
    bar: bool = True,
    limit: float | None = None,
) -> Axes:
    """A picture of a table: signed values to the largest of them, or to ``limit``; ``shares`` from 0 to 1."""
    plt = _pyplot()
    from matplotlib.colors import LinearSegmentedColormap

    if ax is None:
        height, width = values.shape
        _, ax = plt.subplots(
            figsize=(min(max(4.0, 0.16 * width + 2), 11), min(max(2.5, 0.16 * height + 1.5), 9)), layout="constrained"
        )
    assert ax is not None
    finite = values[torch.isfinite(values)]
    largest = limit or (1.0 if shares or not finite.numel() else float(finite.abs().max()))
    colours = ["white", BLUE] if shares else [BLUE, "white", ORANGE]
    colour_map = LinearSegmentedColormap.from_list("pellucid", colours).with_extremes(bad=GREY)
    masked = values.masked_fill(~torch.isfinite(values), math.nan).numpy()
    image = ax.imshow(
        masked, cmap=colour_map, vmin=0.0 if shares else -(largest or 1.0), vmax=largest or 1.0, aspect="auto"
    )
    ax.set_title(title, fontsize=10, fontfamily=families(title))
    if bar:
        ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02)
    return ax


def ruler(axis: Any, labels: Sequence[str]) -> None:
    """Tokens along an axis, each as it reads; in a long text, every so many."""
    every = math.ceil(len(labels) / LABELS)
    places = range(0, len(labels), every)
    shown = [readable(labels[i]) for i in places]
    rotation = {"rotation": 90} if axis.axis_name == "x" else {}
    axis.set_ticks(list(places), shown, fontfamily=families("".join(shown)), fontsize=8, parse_math=False, **rotation)


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "pictures need matplotlib, which is not installed", remedy="pip install 'pellucid[plot]'"
        ) from error
    return plt
