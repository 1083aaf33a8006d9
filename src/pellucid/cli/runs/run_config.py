"""``--config run.yaml``: flags in a file. What is typed wins; what was resolved is saved, and is itself such a file.

The flags are the one schema: a file's value is checked by its flag's own type, whether the file comes with ``--config``
or is that of a run which goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from pellucid.base.errors import CheckpointError, ConfigError
from pellucid.base.files import atomic_write, read_text
from pellucid.cli.runs.options import option

MAX_BYTES, MAX_DEPTH = 2**20, 16  # a file of flags is some kB, of two levels


def read_yaml(path: str) -> dict[str, Any]:
    """A YAML mapping. Raises: ConfigError where the file is none, or says something twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Of two equal keys YAML takes the last, without a word; and it nests as deeply as it is told to."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise ConfigError("nested too deeply", where=path, expected=f"at most {MAX_DEPTH} levels")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if twice := next((key for place, key in enumerate(keys) if key in keys[:place]), None):
                raise ConfigError(f"{twice!r} is there twice", where=f"{path}, line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(read_text(path, MAX_BYTES), Loader)
    except (ConfigError, CheckpointError):
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:  # a 99th of the month, say
        raise ConfigError(f"not valid YAML: {error}", where=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from None
    if not isinstance(value, dict):
        raise ConfigError("expected a mapping of flags to values", where=path, received=type(value).__name__)
    return value


def read_flags(path: str, command: click.Command) -> dict[str, Any]:
    """The flags of a command that a file has values for, each value checked and converted by its flag's type.

    Raises: ConfigError naming a key that is no flag, or a value that its flag does not take.
    """
    parameters = {one.name: one for one in command.params if one.name not in (None, "config")}
    flags: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in parameters:
            close = get_close_matches(name, [flag for flag in parameters if flag])
            raise ConfigError(
                f"{str(key)[:80]!r} is no flag of {command.name}",
                where=path,
                remedy=f"did you mean {close[0]}?" if close else None,
            )
        if name in flags:
            raise ConfigError(f"{name} is there twice, as {key!r} too", where=path)
        flags[name] = _checked(value, parameters[name], f"{path}: {key}")
    return flags


def _checked(value: Any, parameter: click.Parameter, where: str) -> Any:
    """The value as its flag would have it from the command line. Raises: ConfigError."""
    if value is None:
        # A resolved file writes so what was left open; a flag that always has a value is not left open.
        if not isinstance(parameter.default, (str, int, float)):
            return None
        raise ConfigError("there is no value", where=where, remedy="give it one, or leave the line out")
    if parameter.multiple:
        values = value if isinstance(value, list) else [value]
        return [_one(part, parameter, where) for part in values]
    return _one(value, parameter, where)


def _one(value: Any, parameter: click.Parameter, where: str) -> Any:
    flag = parameter.type
    number = isinstance(flag, (click.types.IntParamType, click.types.FloatParamType))
    if isinstance(flag, click.types.BoolParamType):
        expected, kinds = "true or false", (bool,)
    elif number:
        expected, kinds = "a number", (int, float, str)  # YAML takes 1e-3 for a text
    else:
        expected, kinds = "a text (in quotes, where it looks like something else)", (str,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or "\0" in str(value):
        shown = value if isinstance(value, (bool, int, float)) else type(value).__name__
        raise ConfigError("a value of the wrong kind", where=where, expected=expected, received=f"{shown}"[:80])
    if isinstance(value, bool):
        return value
    try:
        return flag.convert(f"{value}" if number else value, parameter, None)
    except click.BadParameter as error:
        raise ConfigError(error.message.removesuffix("."), where=where) from None


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    import yaml

    with atomic_write(path, "w") as file:
        yaml.safe_dump(dict(values), file, sort_keys=False, allow_unicode=True)


def _apply(ctx: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Make the file's values the defaults of the command's flags."""
    if path is None:
        return None
    flags = {name: value for name, value in read_flags(path, ctx.command).items() if value is not None}
    ctx.default_map = {**(ctx.default_map or {}), **flags}
    return path


config: Callable[[Any], Any] = option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    is_eager=True,
    callback=_apply,
    help="Flags from a YAML file; those typed here win.",
)
