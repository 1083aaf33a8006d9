"""``--config run.yaml``: flags in a file. What is typed wins; what was resolved is saved, and is itself such a file."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from pellucid.base.errors import ConfigError
from pellucid.base.files import atomic_write, read_text
from pellucid.cli.runs.options import option

SOURCE = click.core.ParameterSource


def read_yaml(path: str) -> dict[str, Any]:
    """A YAML mapping. Raises: ConfigError where the file is none."""
    import yaml

    try:
        value = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"not valid YAML: {reason}", where=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from None
    if not isinstance(value, dict):
        raise ConfigError("expected a mapping of flags to values", where=path, received=type(value).__name__)
    return value


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    import yaml

    with atomic_write(path, "w") as file:
        yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)


def _apply(ctx: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Make the file's values the defaults of the command's flags. Raises: ConfigError naming a key that is no flag."""
    if path is None:
        return None
    flags = {its.name: its for its in ctx.command.params if its.name not in (None, "config")}
    defaults: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in flags:
            close = get_close_matches(name, [flag for flag in flags if flag])
            raise ConfigError(
                f"{key!r} is no flag of {ctx.command.name}",
                where=path,
                remedy=f"did you mean {close[0]}?" if close else None,
            )
        if flags[name].multiple and not isinstance(value, list):  # type: ignore[attr-defined]
            value = [value]
        defaults[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


config: Callable[[Any], Any] = option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    is_eager=True,
    callback=_apply,
    help="Flags from a YAML file; those typed here win.",
)
