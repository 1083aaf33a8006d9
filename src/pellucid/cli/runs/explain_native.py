"""What ``pellucid explain --executor native`` prints beside the rest: how far each step is from torch's float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pellucid.cli.terminal.tables import table_of

if TYPE_CHECKING:
    from rich.console import Console

    from pellucid.explain.native import NativeTrace


def to_json(trace: NativeTrace) -> dict[str, Any]:
    return {
        "executor": trace.executor,
        "deviations": [deviation.to_json() for deviation in trace.deviations.values()],
        "recomputed": sorted(trace.recomputed),
        "kl": trace.kl.tolist(),
        "same_choice": trace.same_choice,
    }


def print_heading(console: Console, trace: NativeTrace) -> None:
    console.print(f"Numbers: the native executor's ({trace.native.told()}).")
    console.print("[dim]What a layer would say, and why, is torch's arithmetic on them.[/]")


def print_deviations(console: Console, trace: NativeTrace) -> None:
    """Every kind of step: its own error, and what has gathered up to it, at some layers."""
    last, found = trace.config.num_layers - 1, trace.deviations
    layers = sorted({0, last // 2, last})
    table = table_of(("step", "r"), *((f"own {i}", "r") for i in layers), *((f"so far {i}", "r") for i in layers))
    table.columns[0].justify = "left"
    for path, tap in trace.taps.items():
        if tap.layer in (None, 0):
            paths = [path] if tap.layer is None else [path.replace("layers.0.", f"layers.{i}.") for i in layers]
            blank = [""] * (len(layers) - len(paths))
            table.add_row(
                tap.name,
                *(share(found[its].own) for its in paths),
                *blank,
                *(share(found[its].so_far) for its in paths),
                *blank,
            )
    console.print(
        "\nHow far from torch's float32 on the same weights, in layers", ", ".join(map(str, layers)), end=":\n\n"
    )
    console.print(table)
    shown = ", ".join(dict.fromkeys(trace.tap(path).name for path in trace.taps if path in trace.recomputed))
    console.print(f"[dim]own: this step alone; so far: with all before it. Looked up or computed for show: {shown}.[/]")
    console.print(
        f"\nThe likeliest next token is torch's at {trace.same_choice} of {trace.token_ids.shape[1]} positions; "
        f"KL(torch ‖ native) {float(trace.kl.mean()):.1e} nats a token."
    )


def share(error: float) -> str:
    """0, or a share: 0.3 %, 2e-08."""
    return "0" if error == 0 else f"{error:.2%}" if error >= 5e-5 else f"{error:.0e}"
