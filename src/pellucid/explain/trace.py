"""``trace``: one run of a model with all that can be asked of it at hand. The face of this room."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pellucid.explain.checks import Checks, check
from pellucid.explain.questions.surprise import Surprise, surprise
from pellucid.explain.record import Record, TooLargeError, UnknownStepError
from pellucid.explain.run import record
from pellucid.explain.step import Step, make_step
from pellucid.model.decoder import Decoder


class Trace(Record):
    """A ``Record`` that answers for itself: what a step is, whether all of it is true, pictures, the page."""

    def step(self, path: str) -> Step:
        """What this step is: equation, axes, inputs, weights, meaning, line of code, range of its numbers."""
        return make_step(self, path)

    @cached_property
    def checks(self) -> Checks:
        """Every identity that this model has, recomputed from the recorded numbers. The first look runs the fast path
        once more.
        """
        return check(self)

    def surprise(self, targets: Any = None) -> Surprise:
        """Probability, nats and bits of each position's target; by default the next token. See ``surprise``."""
        return surprise(self, targets)

    def plot(self, path: str, **options: Any) -> Any:
        """A heat map of a step with its tokens as rulers; see ``explain.show.plot``."""
        from pellucid.explain.show.plot import plot

        return plot(self, path, **options)

    def save(self, path: Any, **options: Any) -> None:
        """The interactive page in one file that works offline; ``options`` are ``write_page``'s."""
        from pellucid.explain.show.html import write_page

        write_page(self, path, **options)


def trace(model: Decoder, tokenizer: Any, text: Any, **options: Any) -> Trace:
    """Run ``text`` through ``model`` and keep its steps; ``text``, ``options`` and what is raised are ``record``'s."""
    run = record(model, tokenizer, text, **options)
    return Trace(run.model, run.prompt, run, run.positions, run.edits, run.edited)


__all__ = ["TooLargeError", "Trace", "UnknownStepError", "trace"]
