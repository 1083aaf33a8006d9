"""``quantization_config`` read with checks, and the tensors that it describes: what nobody understands is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.base.typed import is_whole, shown
from pellucid.families.translation.harmless import is_neutral

REMEDY = "take the unquantized model, or a GGUF file of it"

# Keys that say how a model was quantized or is to be run, and nothing of what its tensors mean.
HARMLESS = {
    *("quant_method", "modules_to_not_convert", "ignored_layers", "dequantize", "model_name_or_path", "meta"),
    *("model_file_base_name", "version_hash", "_name_or_path", "exclude", "producer", "library_version"),
}


class Settings:
    """The keys of one method's settings. ``rest()`` comes last: it refuses a key that nobody asked for, where its value
    switches something on.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._read: set[str] = set(HARMLESS)

    def get(self, *names: str, default: Any = None) -> Any:
        """The value under the first of several names that has one."""
        self._read |= set(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def size(self, *names: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(*names, default=default)
        if not is_whole(value) or value < least:
            raise ConfigError(
                f"{names[0]} must be a whole number of at least {least}", where=self.where, received=shown(value)
            )
        return value

    def text(self, *names: str, default: str) -> str:
        value = self.get(*names, default=default)
        if not isinstance(value, str):
            raise ConfigError(f"{names[0]} must be a text", where=self.where, received=shown(value))
        return value.lower()

    def part(self, name: str) -> Mapping[str, Any]:
        value = self.get(name, default={})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be an object", where=self.where, received=shown(value))
        return value

    def only(self, name: str, *values: Any) -> None:
        """What another value would mean is not implemented."""
        if (value := self.get(name, default=values[0])) not in values:
            raise UnsupportedError(
                f"{name} = {shown(value)} is not implemented",
                where=self.where,
                expected=" or ".join(map(repr, values)),
                remedy=REMEDY,
            )

    def rest(self, *harmless: str) -> None:
        for name, value in self.values.items():
            if name not in self._read and name not in harmless and not is_neutral(name, value):
                raise UnsupportedError(
                    f"{name if name.isprintable() else shown(name)} = {shown(value)} is not implemented",
                    where=self.where,
                    remedy=f"{REMEDY}; remove the key only if it has no effect",
                )

    def names(self, *keys: str) -> list[str]:
        """A list of names of modules under one of these keys."""
        value = self.get(*keys, default=[])
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{keys[0]} must be a list of names", where=self.where, received=shown(value))
        return list(value)


class Tensors:
    """The files' tensors, asked for by module and leaf with what they must be."""

    def __init__(self, stored: Mapping[str, Array], where: object) -> None:
        self.stored, self.where = stored, where
        self.metadata: Mapping[str, str] = getattr(stored, "metadata", {})  # of the files themselves

    def __iter__(self):
        return iter(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def ending(self, suffix: str) -> list[str]:
        """What stands before ``suffix`` in each name that ends so, in the order of the files."""
        return [name[: -len(suffix)] for name in self.stored if name.endswith(suffix)]

    def need(self, name: str, dtypes: Iterable[str], dims: int | tuple[int, ...]) -> Array:
        """Raises: WeightsError where it is not there, or is something else."""
        dims = (dims,) if isinstance(dims, int) else dims
        if name not in self.stored:
            raise WeightsError(
                f"{name} is missing, which its module cannot be read without",
                where=self.where,
                remedy="a file of the checkpoint may be missing, or quantization_config be of another model",
            )
        array = self.stored[name]
        if array.dtype not in dtypes or len(array.shape) not in dims:
            raise WeightsError(
                f"{name} is not what quantization_config says",
                where=self.where,
                expected=f"{' or '.join(dtypes)}, {' or '.join(map(str, dims))} axes",
                received=f"{array.dtype} {list(array.shape)}",
            )
        return array

    def maybe(self, name: str, dtypes: Iterable[str], dims: int | tuple[int, ...]) -> Array | None:
        return self.need(name, dtypes, dims) if name in self.stored else None


def fits(what: str, array: Array, *shapes: tuple[int, ...]) -> None:
    """Raises: WeightsError where an array is of none of these shapes."""
    if array.shape not in shapes:
        raise WeightsError(
            f"{what} has the wrong shape",
            expected=" or ".join(str(list(shape)) for shape in shapes),
            received=list(array.shape),
            remedy="check bits and group_size in quantization_config",
        )
