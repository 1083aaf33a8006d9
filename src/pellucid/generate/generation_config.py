"""``GenerationConfig``: how a model answers where a call says nothing, as generation_config.json holds it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.base.files import atomic_write, read_json

FILE = "generation_config.json"


class GenerationConfig(dict[str, Any]):
    """generation_config.json's keys, by attribute or by name; one that is not there is None, as in transformers."""

    def __init__(self, settings: Mapping[str, Any] | None = None, **more: Any) -> None:
        super().__init__({name: value for name, value in {**(settings or {}), **more}.items() if value is not None})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if value is None:
            self.pop(name, None)
        else:
            self[name] = value

    @classmethod
    def of(cls, settings: Any) -> GenerationConfig:
        """From a mapping, None, or an object of transformers'."""
        if settings is None or isinstance(settings, Mapping):
            return cls(settings)
        return cls(settings.to_dict())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **more: Any) -> GenerationConfig:
        """That of a model's folder, or of the file itself."""
        path = Path(folder)
        return cls(read_json(path / FILE if path.is_dir() else path), **more)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **more: Any) -> GenerationConfig:
        return cls(settings, **more)

    def update(self, *settings: Any, **more: Any) -> dict[str, Any]:  # type: ignore[override]
        """As a dict's; and nothing is left over, as transformers' says by what it returns."""
        super().update(*settings, **more)
        return {}

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    to_diff_dict = to_dict

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(folder) / FILE) as file:
            file.write((json.dumps(self, indent=2, ensure_ascii=False) + "\n").encode())

    def __repr__(self) -> str:
        return f"GenerationConfig({json.dumps(self, indent=2, default=str)})"
