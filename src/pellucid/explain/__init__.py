"""See through a model: every number of every step of a real run, with its equation, its operands, and what would happen without it."""

from pellucid.explain.checks import Check, Checks
from pellucid.explain.edits import Ablate, Edit, Patch, SwapToken
from pellucid.explain.operands import Cell, Operands, Term, operands
from pellucid.explain.step import Step
from pellucid.explain.trace import Trace, trace

__all__ = ["Ablate", "Cell", "Check", "Checks", "Edit", "Operands", "Patch", "Step", "SwapToken", "Term", "Trace", "operands", "trace"]
