"""Copy: what is handed on unchanged, under another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations.operation import Numbers, Operation, Places, Weights


@dataclass(frozen=True)
class Copy(Operation):
    """y = x."""

    kind = "copy"

    def equation(self, result: str, *inputs: str) -> str:
        return f"{result} = {inputs[0]}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return inputs[0]
