"""What a description is held to: bounds of sizes and numbers, and the words for one that is out of them."""

from __future__ import annotations

from pellucid.base.errors import ConfigError
from pellucid.base.typed import shown

MAX_SIZE = 2**31 - 1  # a width or a vocabulary beyond this is a damaged or hostile file
MAX_LAYERS = 4096
MAX_ROPE = 1e9  # what multiplies or divides a rotary frequency; beyond it is a damaged or hostile file
MAX_EXPERTS = 2**16  # over all layers


def check_size(owner: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIZE:
            raise ConfigError(
                f"{name} must be a positive whole number",
                where=owner,
                received=shown(value),
                remedy="check config.json",
            )


def check_number(owner: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigError(
                f"{name} must be a positive number", where=owner, received=shown(value), remedy="check config.json"
            )


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is unknown", where=owner, expected=" or ".join(choices), received=shown(value))
