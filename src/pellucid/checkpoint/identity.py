"""What a checkpoint's weights are made of, in one line: what is derived from them and kept is kept under it."""

from __future__ import annotations

import hashlib

from pellucid.base.files import file_sha256, sampled_sha256
from pellucid.checkpoint.open import Checkpoint

READ_WHOLE = ("config.json", "adapter_config.json", "*.index.json")  # small files that say what weights become


def identity(checkpoint: Checkpoint) -> str:
    """A SHA-256 that changes when a file of the checkpoint does.

    Config, adapter's config and index count byte by byte. A file of weights counts with its path, size, time of change,
    first and last 64 kB and blocks between: an edit of the same length that also puts the time back, between those
    blocks, is not seen.
    """
    digest = hashlib.sha256()
    for path in sorted(path.resolve() for path in checkpoint.files):
        facts = path.stat()
        digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns} {sampled_sha256(path)}\n".encode())
    folders = {path.parent for path in checkpoint.files}
    folders.add(checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent)
    for folder in sorted(folders):
        for pattern in READ_WHOLE:
            for path in sorted(folder.glob(pattern)):
                digest.update(f"{path} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
