"""Byte tokens: ``<0xE4>`` stands for the byte 0xE4, where a vocabulary falls back to bytes."""

from __future__ import annotations

import re

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
TOKEN_OF_BYTE = tuple(f"<0x{byte:02X}>" for byte in range(256))


def byte_of_token(token: str) -> int | None:
    """228 for ``"<0xE4>"``; None for any other token."""
    match = _BYTE.fullmatch(token) if len(token) == 6 else None
    return int(match.group(1), 16) if match else None
