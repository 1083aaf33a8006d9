"""How ``pellucid explain`` prints: tables of 80 columns, or JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pellucid.cli.runs import explain_native as native
from pellucid.cli.runs.explain_native import share
from pellucid.cli.terminal.console import results, visible
from pellucid.cli.terminal.tables import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from pellucid.explain.checks import Checks
    from pellucid.explain.questions.walk import Guess
    from pellucid.explain.record import Record
    from pellucid.operations.cell import Cell

SHOWN = 6  # numbers of a row
ROWS = 12
MANY = 48  # tokens of a text that are all listed


def print_walk(trace: Record, checks: Checks, name: str, position: int, target: str | None, as_json: bool) -> None:
    """Tokens, layers, the prediction, checks."""
    from rich.cells import cell_len
    from rich.markup import escape

    from pellucid.explain.native import NativeTrace
    from pellucid.explain.questions.walk import walk

    its = walk(trace, position, target=target)
    if as_json:
        tokens = [
            {"position": i, "id": token, "piece": piece}
            for i, (token, piece) in enumerate(zip(trace.tokens[0], trace.pieces[0], strict=True))
        ]
        native_too = native.to_json(trace) if isinstance(trace, NativeTrace) else {}
        return _json(
            {
                "model": name,
                **trace.model_summary,
                "tokens": tokens,
                **its.to_json(),
                "checks": [worst.to_json() for worst in checks.worst()],
                "ok": checks.ok,
                **native_too,
            }
        )
    console, summary = results(), trace.model_summary
    shared = (
        "" if summary["num_kv_heads"] == summary["num_heads"] else f" ({summary['num_kv_heads']} for keys and values)"
    )
    dtype = "" if isinstance(trace, NativeTrace) else f", {summary['dtype']}"
    console.print(
        f"[bold]{escape(name)}[/]: {summary['model_type']}, {summary['num_layers']} layers, "
        f"d_model {summary['d_model']}, {summary['num_heads']} heads{shared}, vocabulary {summary['vocab_size']}{dtype}"
    )
    if isinstance(trace, NativeTrace):
        native.print_heading(console, trace)
    console.print()
    console.print(_tokens(trace))
    length = trace.token_ids.shape[1]
    console.print(
        f"\n{length} tokens → embed {_shape(trace, 'embed')} → {summary['num_layers']} layers "
        f"→ logits {_shape(trace, 'logits')}"
    )
    console.print(f"\nFrom token {its.position} {_quoted(trace.pieces[0][its.position])}, layer by layer:\n")
    table = table_of(
        ("layer", "r"),
        ("|stream|", "r"),
        ("+attn", "r"),
        ("+mlp", "r"),
        ("would say", ""),
        ("", "r"),
        ("looks most at", ""),
    )
    for row in its.layers:
        name = "embed" if row.layer is None else str(row.layer)
        added = (
            [f"{row.attention:.1f}", f"{row.mlp:.1f}"]
            if row.attention is not None and row.mlp is not None
            else ["", ""]
        )
        looks, room = "", 32
        for look in row.looks:  # as many as one line holds
            text = f"{_quoted(look.piece, 10)} {look.share:.0%}  "
            looks, room = (looks + text, room - cell_len(text)) if cell_len(text) <= room else (looks, 0)
        table.add_row(
            name,
            f"{row.stream:.1f}",
            *added,
            _quoted(row.guesses[0].piece, 14),
            f"{row.guesses[0].probability:.0%}",
            looks,
        )
    console.print(table)
    console.print(f"\nWhat comes next (entropy {its.entropy_bits:.2f} bits):\n")
    console.print(_guesses([*its.distribution, *([its.target] if its.target else [])]))
    if its.target:
        console.print(f"\nThe last line is your own target: number {its.target_rank:,} by probability.")
    if its.why:
        first, second = (_quoted(guess.piece) for guess in its.distribution[:2])
        console.print(f"\nWhy {first} and not {second}: their logits differ by {its.why.difference:.2f}, of which")
        console.print("  " + ", ".join(f"{part.label} {part.value:+.2f}" for part in its.why.parts))
    if isinstance(trace, NativeTrace):
        native.print_deviations(console, trace)
    console.print()
    worst = max(checks, key=lambda check: check.error / check.tolerance)
    verdict = "all hold" if checks.ok else f"[bold red]{len(checks.failed)} FAIL[/]"
    console.print(
        f"Checks: {len(checks)} identities, {verdict}; "
        f"the worst error is {worst.error:.0e} of the largest value, at {worst.name}."
    )
    for failed in checks.failed[:5]:
        console.print(f"  [red]{failed.name}: {failed.title}: {failed.error:.1e}, at most {failed.tolerance:.0e}[/]")
    return None


def print_layer(trace: Record, layer: int, position: int, as_json: bool) -> None:
    """Every step of one layer, and where each head looks."""
    from pellucid.explain.native import NativeTrace
    from pellucid.explain.step import make_step

    layer = layer % trace.config.num_layers if -trace.config.num_layers <= layer < trace.config.num_layers else layer
    steps = [make_step(trace, path) for path in trace if trace.tap(path).layer == layer]
    if not steps:
        trace.tap(f"layers.{layer}.resid_pre")  # raises, naming the layers there are
    column = trace.column("logits", position)
    heads = []
    for head, shares in enumerate(trace[f"layers.{layer}.pattern"][0, :, column].float()):
        top = shares.topk(min(3, trace.positions[column] + 1))
        looks = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        heads.append(
            {
                "head": head,
                "looks": [{"position": j, "piece": trace.pieces[0][j], "share": share} for j, share in looks],
            }
        )
    if as_json:
        return _json({"layer": layer, "steps": [step.to_json() for step in steps], "heads": heads})
    console, errors = results(), trace.deviations if isinstance(trace, NativeTrace) else None
    table = table_of(
        ("step", ""),
        ("what", ""),
        ("shape", ""),
        ("min", "r"),
        ("max", "r"),
        *([("own", "r"), ("so far", "r")] if errors else [("norm", "r")]),
    )
    for step in steps:
        shape, size = "×".join(map(str, step.shape)), [f"{step.norm:.4g}"]
        if errors:
            size = [share(errors[step.name].own), share(errors[step.name].so_far)]
        table.add_row(step.name.rpartition(".")[2], step.title, shape, f"{step.min:.2f}", f"{step.max:.2f}", *size)
    console.print(f"[bold]Layer {layer}[/]\n")
    console.print(table)
    if errors:
        console.print("\n[dim]own, so far: how far from torch's float32, this step alone and with all before it.[/]")
    console.print(
        f"\nWhere token {trace.positions[column]} {_quoted(trace.pieces[0][trace.positions[column]])} looks:\n"
    )
    table = table_of(("head", "r"), ("looks most at", ""))
    for its in heads:
        table.add_row(
            str(its["head"]), "  ".join(f"{_quoted(look['piece'])} {look['share']:.0%}" for look in its["looks"])
        )
    console.print(table)
    return None


def print_step(trace: Record, path: str, position: int, as_json: bool) -> None:
    """One step in full, with a small table of its numbers."""
    from pellucid.explain.native import NativeTrace
    from pellucid.explain.step import MOST_WEIGHTS, make_step

    step, column = make_step(trace, path), trace.column(path, position)
    axis = step.axes.index("position" if "position" in step.axes else "key")
    seen = trace[path].select(axis, column)[0].float()
    if as_json:
        values = seen.masked_fill(~seen.isfinite(), float("nan")).tolist()
        its = {"deviation": trace.deviations[path].to_json()} if isinstance(trace, NativeTrace) else {}
        return _json(step.to_json() | {"position": position, "values": _without_nan(values)} | its)
    console = results()
    console.print(f"[bold]{step.name}: {step.title}[/]\n")
    console.print(step.meaning)
    console.print(f"\n  {_plain_formula(step.latex)}\n", markup=False)
    facts = table_of(("", ""), ("", ""))
    facts.add_row("shape", " × ".join(f"{axis} {size}" for axis, size in zip(step.axes, step.shape, strict=True)))
    facts.add_row("numbers", f"{step.dtype}, from {step.min:.4g} to {step.max:.4g}, norm {step.norm:.4g}")
    if step.inputs:
        facts.add_row("from", ", ".join(step.inputs))
    for weight in step.weights[:MOST_WEIGHTS]:
        facts.add_row("weight", f"{weight.name} {list(weight.shape)}")
    if len(step.weights) > MOST_WEIGHTS:
        facts.add_row("", f"… ({len(step.weights) - MOST_WEIGHTS} more)")
    facts.add_row("code", step.code)
    if isinstance(trace, NativeTrace):
        its = trace.deviations[path]
        facts.add_row(
            "off torch",
            f"{share(its.own)} by itself, {share(its.so_far)} so far"
            + (", computed for show" * (path in trace.recomputed)),
        )
    facts.show_header = False
    console.print(facts)
    console.print()
    console.print(_numbers(trace, path, column))
    return None


def print_cell(trace: Record, path: str, index: tuple[int, ...], as_json: bool) -> None:
    """One number with its operands."""
    from pellucid.explain.native import NativeTrace
    from pellucid.explain.questions.operands import operands

    found = operands(trace, path, index)
    if as_json:
        return _json(found.to_json())
    console = results()
    place = ", ".join(map(str, found.index[1:]))
    console.print(f"[bold]{path}\\[{place}] = {found.value:.6g}[/]\n")
    console.print(f"  {_plain_formula(trace.tap(path).latex)}", markup=False)
    console.print(
        f"  = {_plain_formula(found.latex)}" + (f"   ({found.masked})" if found.masked else "") + "\n", markup=False
    )
    if found.parts:
        console.print("  " + ", ".join(f"{name} {value:.6g}" for name, value in found.parts.items()), markup=False)
    table = table_of(
        ("term", "r"), *([("", ""), ("", "r")] * max([len(term.cells) for term in found.terms], default=1))
    )
    for cell in found.leads:
        table.add_row("", *_cell(cell))
    for term in found.terms:
        table.add_row(f"{term.value:.5f}", *(part for cell in term.cells for part in _cell(cell)))
    if found.rest_count:
        table.add_row(f"{found.rest_sum:.5f}", f"… {found.rest_count} smaller")
    console.print(table)
    sources = dict.fromkeys(cell.name for cell in found.cells if "." in cell.name)
    if sources:
        console.print("\nfrom " + ", ".join(sources))
    exact = f"; torch's float32 run has {trace.exact[path][found.index]:.8g}" if isinstance(trace, NativeTrace) else ""
    console.print(f"recomputed {found.recomputed:.8g}, recorded {found.value:.8g}{exact}")
    return None


def _tokens(trace: Record) -> Table:
    """Positions, ids and pieces, three columns of them; of a long text its beginning and its end."""
    cells = [
        (str(n), str(token), _quoted(piece, 12))
        for n, (token, piece) in enumerate(zip(trace.tokens[0], trace.pieces[0], strict=True))
    ]
    if len(cells) > MANY:
        cells = [
            *cells[: MANY // 3],
            ("…", "", f"{len(cells) - MANY + 1} more"),
            *cells[len(cells) - 2 * MANY // 3 + 1 :],
        ]
    down = -(-len(cells) // 3)
    table = table_of(*([("", "r"), ("id", "r"), ("token", "")] * 3))
    for i in range(down):
        table.add_row(*(part for cell in cells[i::down] for part in cell))
    return table


def _numbers(trace: Record, path: str, column: int) -> Table:
    """Some of a step's numbers: the likeliest tokens, the position's row by head, or the last rows of a table."""
    step, value = trace.tap(path), trace[path][0].float()
    if path == "logits":
        row = value[column]
        best, probabilities = row.topk(min(10, len(row))), row.softmax(-1)
        table = table_of(("token", ""), ("id", "r"), ("logit", "r"), ("probability", "r"))
        for logit, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            table.add_row(_quoted(trace.piece(token)), str(token), f"{logit:.3f}", f"{probabilities[token]:.4f}")
        return table
    if value.ndim == 3:
        rows, across = value[:, column], step.axes[-1]
        last = (
            trace.column(path, -1)
            if across != "key"
            else min(column if not trace.is_partial else trace.positions[column], value.shape[-1] - 1)
        )
        shown = range(max(last - SHOWN + 1, 0), last + 1) if across == "key" else range(min(SHOWN, value.shape[-1]))
        names = (
            [_quoted(trace.pieces[0][j], 8) for j in shown]
            if across == "key"
            else [f"{across.removeprefix('head_')} {j}" for j in shown]
        )
        table = table_of(("head", "r"), *((name, "r") for name in names), ("", ""))
        for head, row in enumerate(rows.tolist()):
            table.add_row(str(head), *(f"{row[j]:.3f}" for j in shown), "…" if len(row) > len(shown) else "")
        return table
    table = table_of(("token", ""), *((f"{j}", "r") for j in range(min(SHOWN, value.shape[-1]))), ("", ""))
    first = max(column - ROWS + 1, 0)
    for n in range(first, column + 1):
        row = value[n].tolist()
        table.add_row(
            _quoted(trace.pieces[0][trace.positions[n]], 14),
            *(f"{number:.3f}" for number in row[:SHOWN]),
            "…" if len(row) > SHOWN else "",
        )
    return table


def _guesses(guesses: Sequence[Guess]) -> Table:
    table = table_of(("token", ""), ("id", "r"), ("probability", "r"), ("surprise", "r"), ("", ""))
    for guess in guesses:
        bar = "█" * round(30 * guess.probability)
        table.add_row(_quoted(guess.piece), str(guess.token), f"{guess.probability:.2%}", f"{guess.bits:.2f} bits", bar)
    return table


def _cell(cell: Cell) -> tuple[str, str]:
    """A cell by its short name, and its value."""
    place = ",".join(map(str, cell.index if cell.source == "weight" else cell.index[1:]))
    name = cell.name.removesuffix(".weight").rpartition(".")[2] if not cell.name.endswith(".bias") else "bias"
    return f"{name}\\[{place}]", str(int(cell.value)) if cell.source == "token" else f"{cell.value:.5f}"


def _shape(trace: Record, path: str) -> str:
    batch, length = trace.token_ids.shape
    return "×".join(map(str, trace.tap(path).shape(batch, length, length)))


def _quoted(piece: str, most: int = 24) -> str:
    """A token in quotes, cut to ``most`` columns; nothing in it is markup or a terminal's command."""
    from rich.cells import cell_len, set_cell_size
    from rich.markup import escape

    text = f'"{visible(piece)}"'
    return escape(text if cell_len(text) <= most else set_cell_size(text, most - 1).rstrip() + "…")


_WORDS = {
    "odot": "⊙", "cdot": "·", "top": "ᵀ", "gamma": "γ", "beta": "β", "mu": "μ", "sigma": "σ", "epsilon": "ε",
    "theta": "θ", "ell": "ℓ", "infty": "∞", "le": "≤", "mapsto": "→", "lfloor": "⌊", "rfloor": "⌋", "dots": "…",
    "sum": "Σ", "quad": "  ", "hat": "^", "left": "",
    "right": "", "text": "", "operatorname": "", ";": " ", ",": " ",
}  # fmt: skip


def _plain_formula(latex: str) -> str:
    """LaTeX as a terminal can show it: ``γ ⊙ (x - μ) / √(σ^2 + ε)``."""
    while (
        flat := re.sub(
            r"\\frac\{((?:[^{}]|\{[^{}]*\})*)\}\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", r"(\1) / (\2)", latex
        )
    ) != latex:
        latex = flat
    latex = re.sub(r"\\sqrt\{((?:[^{}]|\{[^{}]*\})*)\}", r"√(\1)", latex)
    latex = re.sub(r"\\([A-Za-z]+|[;,])", lambda match: _WORDS.get(match[1], match[1]), latex)
    latex = re.sub(
        r"([_^])\{([^{}]*)\}",
        lambda match: f"{match[1]}{match[2]}" if len(match[2]) == 1 else f"{match[1]}({match[2]})",
        latex,
    )
    return re.sub(r" +", " ", latex.replace("{", "").replace("}", "").replace("^ᵀ", "ᵀ"))


def _json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def _without_nan(values: Any) -> Any:
    """−∞ has no JSON; null stands for it."""
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if values != values else values
