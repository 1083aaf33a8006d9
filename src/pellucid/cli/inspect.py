"""``pellucid inspect``: what a model is made of, from headers alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pellucid.checkpoint.open import Checkpoint
    from pellucid.cli.terminal.anatomy import LayerGroup, Weight
    from pellucid.cli.terminal.memory import Peak


@options.command("inspect")
@click.argument("name", metavar="[MODEL]", required=False)
@options.model
@options.context_size
@options.offline
@options.as_json
def command(name: str | None, model: str, context_len: int | None, offline: bool, as_json: bool) -> None:
    """Show what a model is made of.

    Its description in plain words, its parts with their shapes and sizes, its tokenizer, the memory that it needs. Only
    headers are read, so it takes no longer for a large model. MODEL can be given with -m, too.
    """
    from pellucid.auto import open_model

    options.refuse_idle(model=(name is None, "stands for MODEL, which is there"))
    facts = Facts(open_model(name or model, offline=offline), context_len)
    if as_json:
        print(json.dumps(facts.as_dict(), indent=2, ensure_ascii=False))
    else:
        facts.show()


class Facts:
    """All that is shown, gathered once."""

    def __init__(self, checkpoint: Checkpoint, context_len: int | None) -> None:
        from pellucid.cli.terminal.anatomy import layer_groups, weights_of
        from pellucid.cli.terminal.words import describe_tokenizer
        from pellucid.native.claims import supports

        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.weights = weights_of(checkpoint)
        self.groups = layer_groups(self.weights)
        longest = self.config.longest_context
        if context_len is not None and context_len > longest and self.config.position != "none":
            raise RequestError(
                "the model has no row for this position", expected=f"at most {longest}", received=context_len
            )
        self.context_len = context_len or longest
        self.tokenizer = describe_tokenizer(checkpoint)
        self.native_lacks = supports(self.config)

    # --- totals

    def by(self, key: str) -> dict[str, tuple[int, int]]:
        """(parameters, bytes) by ``part`` or ``dtype``."""
        totals: dict[str, tuple[int, int]] = {}
        for weight in self.weights:
            parameters, nbytes = totals.get(getattr(weight, key), (0, 0))
            totals[getattr(weight, key)] = parameters + weight.num_parameters, nbytes + weight.nbytes
        return totals

    def memory(self) -> list[Peak]:
        """The most that answering takes, by executor and dtype."""
        from pellucid.cli.terminal.memory import peaks

        return list(peaks(self.checkpoint, self.context_len, not self.native_lacks))

    # --- for a program

    def as_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return {
            "path": str(self.checkpoint.path),
            "format": self.checkpoint.kind,
            "files": {str(path): size for path, size in self.checkpoint.files.items()},
            "num_parameters": self.config.num_parameters(),
            "config": asdict(self.config),
            "parts": {
                part: {"parameters": parameters, "bytes": nbytes}
                for part, (parameters, nbytes) in self.by("part").items()
            },
            "quantization": self.checkpoint.quantization,
            "dtypes": {
                dtype: {"parameters": parameters, "bytes": nbytes, "bits_per_weight": 8 * nbytes / parameters}
                for dtype, (parameters, nbytes) in self.by("dtype").items()
            },
            "tokenizer": self.tokenizer,
            "native_lacks": self.native_lacks,
            "unread_keys": list(self.checkpoint.unread),
            "memory": {
                "context_len": self.context_len,
                "peaks": [
                    {"executor": one.executor, "dtype": one.dtype, "run": one.run, "load": one.load, "parts": one.parts}
                    for one in self.memory()
                ],
            },
            "weights": [
                {"name": weight.name, "shape": weight.shape, "dtype": weight.dtype, "bytes": weight.nbytes}
                for weight in self.weights
            ],
        }

    # --- for a person

    def show(self) -> None:
        from rich.text import Text

        from pellucid.cli.terminal.console import results
        from pellucid.cli.terminal.numbers import size
        from pellucid.cli.terminal.words import describe, headline

        console = results()
        console.print(
            Text(self.checkpoint.path.name, "bold"),
            f"({self.checkpoint.kind}, {size(sum(self.checkpoint.files.values()))} on disk)",
        )
        console.print(headline(self.config))
        console.print()
        console.print(_two_columns(describe(self.config)))
        console.print()
        console.print(self._tree())
        console.print()
        console.print(self._totals())
        console.print()
        console.print(_two_columns(self._closing()))

    def _tree(self) -> Any:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("weights", no_wrap=True)
        for title in ("shape", "parameters", "bytes"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("stored as", no_wrap=True)
        for row in _tree_rows(self.weights, self.groups):
            table.add_row(*row)
        if self.config.tie_embeddings:
            table.add_row("lm_head", "= embed", style="dim")
        return table

    def _totals(self) -> Any:
        from rich.table import Table

        from pellucid.cli.terminal.anatomy import PARTS
        from pellucid.cli.terminal.numbers import count, size

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("by part", no_wrap=True)
        for title in ("parameters", "bytes"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("share of bytes")
        whole = sum(weight.nbytes for weight in self.weights)
        by_part = self.by("part")
        for part in PARTS:
            if part in by_part:
                parameters, nbytes = by_part[part]
                share = nbytes / whole
                table.add_row(part, count(parameters), size(nbytes), f"{'█' * round(30 * share)} {share:.1%}")
        table.add_row("all", count(self.config.num_parameters()), size(whole), ", ".join(self._mix()), style="bold")
        return table

    def _mix(self) -> Iterator[str]:
        """``q4_1 99.8 %``, the largest first; all of one kind: its name."""
        by_dtype = self.by("dtype")
        whole = sum(nbytes for _, nbytes in by_dtype.values())
        for dtype, (_, nbytes) in sorted(by_dtype.items(), key=lambda item: -item[1][1]):
            yield dtype if len(by_dtype) == 1 else f"{dtype} {nbytes / whole:.1%}"

    def _closing(self) -> Iterator[tuple[str, str]]:
        from pellucid.cli.terminal.numbers import size

        for label, text in self.tokenizer.items():
            yield label, str(text)
        from pellucid.base.array import BLOCKS

        if self.checkpoint.quantization or any(weight.dtype in BLOCKS for weight in self.weights):
            whole = 8 * sum(weight.nbytes for weight in self.weights) / self.config.num_parameters()
            by = self.checkpoint.quantization or "blocks"
            yield "quantized", f"{by}; {whole:.2f} bits per weight in all"
        yield (
            "runs on",
            f"torch; the native executor does not run {self.native_lacks}" if self.native_lacks else "native, torch",
        )
        if self.checkpoint.unread:
            yield "not read", ", ".join(self.checkpoint.unread) + " (keys that nothing here knows; they have no effect)"
        for one in self.memory():
            parts = " + ".join(f"{part} {size(nbytes)}" for part, nbytes in one.parts.items())
            when = "while it is packed, the first time" if one.executor == "native" else "while loading"
            loading = f"; {size(one.load)} {when}" if one.load > one.run else ""
            yield (
                "memory",
                f"{one.executor}, {one.dtype}: {size(one.run)} = {parts}{loading}",
            )
        yield "", f"(at the most, on a CPU, of one conversation of {self.context_len:,} tokens; -c says another length)"


def _tree_rows(weights: list[Weight], groups: list[LayerGroup]) -> Iterator[tuple[str, ...]]:
    """Rows of the tree: what comes before the layers, each kind of layer once, what comes after."""
    from pellucid.cli.terminal.numbers import ranges, size

    def row(label: str, weight: Weight) -> tuple[str, ...]:
        return (
            label,
            " × ".join(map(str, weight.shape)),
            f"{weight.num_parameters:,}",
            size(weight.nbytes),
            weight.dtype,
        )

    before = True
    for weight in weights:
        if not weight.name.startswith("layers."):
            yield row(weight.name.removesuffix(".weight"), weight)
        elif before:
            before = False
            for group in groups:
                parameters = sum(weight.num_parameters for weight in group.weights)
                times = f"{len(group.layers)} × " if len(group.layers) > 1 else ""
                yield (
                    _shortened(f"layers {ranges(group.layers)}"),
                    "",
                    f"{times}{parameters:,}",
                    times + size(sum(weight.nbytes for weight in group.weights)),
                    "",
                )
                yield from (
                    row(label, weight) if weight else (label,) for label, weight in _branches(_folded(group.weights))
                )


def _shortened(label: str, most: int = 22) -> str:
    """The first ranges that fit, and the last: at 80 columns the numbers beside it need their room."""
    *first, last = label.split(", ")
    if len(label) <= most or not first:
        return label
    while len(first) > 1 and len(", ".join([*first, "…", last])) > most:
        first.pop()
    return ", ".join([*first, "…", last])


def _folded(weights: Iterable[Weight]) -> Iterator[Weight]:
    """The first expert's weights stand for all of a layer's: ``mlp.experts.0–7.up_proj``, with their own sizes."""
    weights = list(weights)
    last = max((int(weight.name.split(".")[2]) for weight in weights if ".experts." in weight.name), default=0)
    for weight in weights:
        if ".experts." not in weight.name:
            yield weight
        elif ".experts.0." in weight.name:
            yield replace(
                weight, name=weight.name.replace(".experts.0.", f".experts.0–{last}." if last else ".experts.0.")
            )


def _branches(weights: Iterable[Weight]) -> list[tuple[str, Weight | None]]:
    """A layer's weights as the branches of a tree, two deep."""
    tree: dict[str, list[tuple[str, Weight]]] = {}
    for weight in weights:
        room, _, leaf = weight.name.removesuffix(".weight").partition(".")
        tree.setdefault(room, []).append((leaf, weight))
    lines: list[tuple[str, Weight | None]] = []
    for i, (room, leaves) in enumerate(tree.items()):
        last = i == len(tree) - 1
        branch, stem = ("└ ", "  ") if last else ("├ ", "│ ")
        if leaves == [("", leaves[0][1])]:
            lines.append((branch + room, leaves[0][1]))
            continue
        lines.append((branch + room, None))
        lines += [
            (stem + ("└ " if j == len(leaves) - 1 else "├ ") + leaf, weight) for j, (leaf, weight) in enumerate(leaves)
        ]
    return lines


def _two_columns(lines: Iterable[tuple[str, str]]) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    before = ""
    for label, text in lines:
        table.add_row("" if label == before else label, text)
        before = label
    return table
