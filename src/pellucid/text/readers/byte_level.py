"""The byte-level alphabet: every byte as one printable character, so that BPE over characters is BPE over bytes.

Source: Radford et al. 2019, GPT-2's encoder.py, ``bytes_to_unicode``.
"""

from __future__ import annotations


def _alphabet() -> dict[int, str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shown = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in shown)
    return shown | {byte: chr(256 + n) for n, byte in enumerate(others)}


CHAR_OF_BYTE: dict[int, str] = _alphabet()
BYTE_OF_CHAR: dict[str, int] = {char: byte for byte, char in CHAR_OF_BYTE.items()}


def to_chars(data: bytes) -> str:
    """``b" hi"`` → ``"Ġhi"``."""
    return "".join([CHAR_OF_BYTE[byte] for byte in data])


def to_bytes(token: str) -> bytes:
    """``"Ġhi"`` → ``b" hi"``; a token with any character outside the alphabet (an added one) is its own UTF-8."""
    try:
        return bytes([BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode("utf-8")
