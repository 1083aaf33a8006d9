"""``Asked``: a model, a tokenizer or a config as transformers' ``from_pretrained`` is asked for it, in our words."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pellucid.checkpoint.sources.hub import USUAL, Access

# Words about where files come from, that every ``from_pretrained`` takes.
KNOWN = (
    *("revision", "offline", "local_files_only", "token", "use_auth_token", "cache_dir", "subfolder", "gguf_file"),
    *("trust_remote_code",),
)
# What these switch on is so here in any case, or changes nothing.
WITHOUT_EFFECT = ("resume_download", "trust_remote_code", "code_revision", "_from_auto", "_commit_hash")
ELSEWHERE = {
    "force_download": "files are verified when they are fetched; to fetch anew, `pellucid rm` and `pellucid pull`",
    "proxies": "set HTTPS_PROXY in the environment",
    "mirror": "set HF_ENDPOINT to a mirror",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The name as ``resolve`` takes it, at a revision; whether the network may be used, and how to go to the hub."""

    name: Any
    revision: str | None = None
    offline: bool = False
    access: Access = USUAL

    @classmethod
    def of(cls, name: Any, revision: str | None, offline: bool, more: dict[str, Any]) -> Asked:
        """From a call's arguments; those of ``more`` that are about this are taken out of it."""
        for word in WITHOUT_EFFECT:
            more.pop(word, None)
        token = more.pop("use_auth_token", None)
        access = Access(
            token=more.pop("token", None) or token,
            cache_dir=more.pop("cache_dir", None),
            subfolder=str(more.pop("subfolder", None) or "").strip("/"),
        )
        only_here = bool(more.pop("local_files_only", False))
        name, access = _with_file(name, more.pop("gguf_file", None), access)
        return cls(
            name=name,
            revision=None if revision == "main" else revision,
            offline=bool(offline) or only_here,
            access=access,
        )


def _with_file(name: Any, gguf_file: str | None, access: Access) -> tuple[Any, Access]:
    """A GGUF file of a folder on disk, or of a repository."""
    if not gguf_file:
        return name, access
    path = Path(os.fspath(name)).expanduser()
    if path.exists():
        return path / access.subfolder / gguf_file, replace(access, subfolder="")
    return f"{name}:{gguf_file}", access
