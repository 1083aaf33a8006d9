"""Models that other programs have on this disk. They are read where they lie, and never changed.

- **Ollama** (``$OLLAMA_MODELS``, ``~/.ollama/models``, ``/usr/share/ollama/.ollama/models``): named as Ollama does:
  ``llama3.2:1b``, ``user/model:tag``, ``hf.co/org/name:Q4_K_M``.
- **LM Studio** (``~/.lmstudio/models``, ``~/.cache/lm-studio/models``): ``publisher/repository/file.gguf``.
- **llama.cpp** (``$LLAMA_CACHE``, ``~/.cache/llama.cpp``, ``~/Library/Caches/llama.cpp``): the file's name. What newer
  ones fetch is in the hub's cache, which is ``hub``'s.

Source: ollama/ollama, ``types/model/name.go``, ``server/manifest.go``; lmstudio-ai/docs; llama.cpp, ``common/arg.cpp``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.base.errors import CheckpointError
from pellucid.base.files import read_json

MAX_FILES = 10_000  # that a folder is searched for
_LIBRARY = "registry.ollama.ai/library/"
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A model of another program. ``remove``: how one gets rid of it, which is that program's business."""

    name: str
    program: str
    path: Path
    size: int
    remove: str


def find_elsewhere(name: str) -> Found | None:
    """The model that another program has under this name: Ollama's may leave out ``:latest``."""
    wanted = {name.lower(), f"{name.lower()}:latest"}
    return next((found for found in found_elsewhere() if found.name.lower() in wanted), None)


def found_elsewhere() -> Iterator[Found]:
    """Every model that another program has here, by program and name. Damaged stores are passed over."""
    for models in (_ollama(), _lm_studio(), _llama_cpp()):
        yield from sorted(models, key=lambda found: found.name)


# --- Ollama ----------------------------------------------------------------------------------------------------------


def _ollama() -> Iterator[Found]:
    own = os.environ.get("OLLAMA_MODELS")
    roots = [Path(own)] if own else [_home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    for root in roots:
        for manifest in _files(root / "manifests", "*"):
            parts = manifest.relative_to(root / "manifests").parts
            if len(parts) != 4:  # host, namespace, model, tag
                continue
            name = f"{'/'.join(parts[:3])}:{parts[3]}".removeprefix(_LIBRARY).removeprefix("registry.ollama.ai/")
            layer = _model_layer(manifest)
            blob = root / "blobs" / layer.replace(":", "-") if layer else None
            size = _size(blob)
            if blob is not None and size is not None:
                yield Found(name, "Ollama", blob, size, f"ollama rm {name}")


def _model_layer(manifest: Path) -> str | None:
    """The digest of the weights; None where the model has none, or several, of which each is a part."""
    try:
        layers: Any = read_json(manifest).get("layers")
    except (OSError, CheckpointError):
        return None
    digests = [
        layer.get("digest")
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict) and layer.get("mediaType") == _MODEL_LAYER
    ]
    return digests[0] if len(digests) == 1 and _DIGEST.fullmatch(str(digests[0])) else None


# --- LM Studio, llama.cpp --------------------------------------------------------------------------------------------


def _lm_studio() -> Iterator[Found]:
    for root in (_home() / ".lmstudio" / "models", _home() / ".cache" / "lm-studio" / "models"):
        for path in _files(root, "*.gguf"):
            if "mmproj" not in path.name.lower() and not _LATER_PART.search(path.name):
                name = path.relative_to(root).as_posix()
                yield Found(name, "LM Studio", path, _size(path) or 0, f"delete it in LM Studio, or: rm {path}")


def _llama_cpp() -> Iterator[Found]:
    own = os.environ.get("LLAMA_CACHE")
    usual = (_home() / ".cache" / "llama.cpp", _home() / "Library" / "Caches" / "llama.cpp")
    for root in [Path(own)] if own else usual:
        for path in _files(root, "*.gguf"):
            if "mmproj" not in path.name.lower() and not _LATER_PART.search(path.name):
                yield Found(path.name, "llama.cpp", path, _size(path) or 0, f"rm {path}")


def _home() -> Path:
    return Path(os.path.expanduser("~"))


def _files(root: Path, pattern: str) -> Iterator[Path]:
    """The files below a folder, in order; none where it is not there or not ours to read."""
    try:
        found = [path for path, _ in zip(root.rglob(pattern), range(MAX_FILES), strict=False)]
        yield from sorted(path for path in found if path.is_file())
    except OSError:
        return


def _size(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None
