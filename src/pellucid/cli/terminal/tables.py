"""Tables as explain prints them: no lines, numbers on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table_of(*columns: tuple[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title, side in columns:
        # Numbers keep their width; words give way, on a second line if need be.
        table.add_column(title, justify="right" if side == "r" else "left", no_wrap=side == "r", overflow="fold")
    return table
