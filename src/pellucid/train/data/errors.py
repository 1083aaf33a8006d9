"""What is wrong with a text or a record that was to be learned from."""

from __future__ import annotations

from pellucid.base.errors import PellucidError


class DataError(PellucidError, ValueError):
    """A text that is absent, empty, not UTF-8, or lacks the field that was asked for."""
