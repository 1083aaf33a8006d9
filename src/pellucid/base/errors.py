"""Errors that say where, what was expected, what was received, and what to do about it."""

from __future__ import annotations


class PellucidError(Exception):
    """Base of every error Pellucid raises on bad input.

    The message reads ``where: expected …, received …; remedy``; parts that do not apply are left out.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.received, self.remedy = what, where, expected, received, remedy
        text = what if where is None else f"{where}: {what}"
        if expected is not None:
            text += f" (expected {expected}" + (f", received {received})" if received is not None else ")")
        elif received is not None:
            text += f" (received {received})"
        if remedy:
            text += f"\n  → {remedy}"
        super().__init__(text)


class ConfigError(PellucidError, ValueError):
    """A model description that contradicts itself or lacks something."""


class CheckpointError(PellucidError, ValueError):
    """A checkpoint file that is truncated, hostile, or of an unknown kind."""


class WeightsError(CheckpointError):
    """Weights that are missing, unexpected, or of the wrong shape for the config."""


class TokenizerError(PellucidError, ValueError):
    """A tokenizer file that cannot be read, or text and ids that it cannot take."""


class TemplateError(PellucidError, ValueError):
    """A chat template that is absent, fails, or exceeds its budget."""


class ContextLengthError(PellucidError, ValueError):
    """More tokens than the model's context holds; names both lengths."""


class ModelNotFoundError(PellucidError, FileNotFoundError):
    """No such folder, file, catalogue alias, or hub id; or the hub is out of reach and nothing is cached."""


class UnsupportedError(PellucidError, NotImplementedError):
    """A model family or mechanism that this version does not implement, named."""


class RequestError(PellucidError, ValueError):
    """A generation request with arguments out of range."""


class DeadlineError(PellucidError, TimeoutError):
    """A request that was not answered in the time that it was given."""


class NotFiniteError(PellucidError, ArithmeticError):
    """A weight or a computed value that is NaN or infinite; names layer and tensor."""
