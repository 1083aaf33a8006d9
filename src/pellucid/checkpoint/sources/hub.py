"""Models on the Hugging Face hub, through ``huggingface_hub``: only the files needed, and what is cached works without
it.

``huggingface_hub`` does the transfers: it goes on after a connection that breaks off, verifies sizes, keeps the cache,
and honours ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``. It is imported when first
needed.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pellucid.base.errors import ModelNotFoundError, PellucidError
from pellucid.checkpoint.files.shards import read_index
from pellucid.checkpoint.sources.hub_files import Needed, needed

TIMEOUT = 10.0  # seconds for the hub to answer, before the cache is used
_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?(?::(?P<pick>[^:\\]+))?", re.ASCII)


# What may stand before org/name; of the places under a repository, those that are a model's.
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_UNDER = re.compile(r"(?P<repo>[^/]+/[^/]+)/(?:tree|blob|resolve|raw|commit)/(?P<revision>[^/]+)(?:/(?P<file>.+))?")
_FILE = re.compile(r"(?P<repo>[^/:@]+/[^/:@]+)/(?P<file>[^:]+\.gguf)", re.IGNORECASE)


def _plain(name: str) -> str:
    """A link as ``org/name[@revision][:pick]``; what is none, as it is."""
    host = _HOST.match(name)
    if host is None:
        file = _FILE.fullmatch(name)
        return f"{file['repo']}:{file['file']}" if file and not name.startswith((".", "/", "~")) else name
    rest = unquote(name[host.end() :].split("?")[0].split("#")[0]).strip("/")
    under = _UNDER.fullmatch(rest)
    if under is None:
        return _plain(rest)
    revision = "" if under["revision"] == "main" else f"@{under['revision']}"
    pick = under["file"] if (under["file"] or "").lower().endswith(".gguf") else None
    return f"{under['repo']}{revision}" + (f":{pick}" if pick else "")


@dataclass(frozen=True)
class HubName:
    """``org/name[@revision][:pick]``: a repository, at a branch, tag or commit, and one GGUF file of it."""

    repo: str
    revision: str | None = None
    pick: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """None where the text is no hub id, and no link to a model of the hub.

        Links are ``hf.co/org/name[:pick]`` and ``https://huggingface.co/org/name[/blob/revision/file]``; and
        ``org/name/file.gguf`` is ``org/name:file.gguf``.
        """
        match = _NAME.fullmatch(_plain(name))
        if not match or ".." in name:  # the parts become names of folders in the cache
            return None
        return cls(match["repo"], match["revision"], match["pick"])

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.pick}" if self.pick else "")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a call goes to the hub, where it is not as the environment says: ``token`` (False: none), ``cache_dir`` in
    place of HF_HUB_CACHE, and the ``subfolder`` of the repository that is the model.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    subfolder: str = ""

    @property
    def cache(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE if self.cache_dir is None else self.cache_dir).expanduser()

    @property
    def client(self) -> dict[str, Any]:
        """The same as huggingface_hub's functions take it."""
        return {"token": self.token, "cache_dir": self.cache}

    def inside(self, names: Iterable[str]) -> list[str]:
        """Those files that are in the subfolder, by their names there."""
        before = f"{self.subfolder}/" if self.subfolder else ""
        return [name.removeprefix(before) for name in names if name.startswith(before)]

    def whole(self, name: str) -> str:
        """A file of the subfolder by its name in the repository."""
        return f"{self.subfolder}/{name}" if self.subfolder else name


USUAL = Access()


def fetch(
    name: HubName,
    *,
    weights: bool = True,
    offline: bool = False,
    progress: bool | None = None,
    access: Access = USUAL,
) -> Path:
    """The model's folder in the hub's cache (for GGUF: the file), brought up to date where the hub can be reached.

    ``weights=False`` leaves the weights where they are: for a tokenizer or a config. ``progress``: bars on stderr;
    None, where that is a terminal.

    Raises: ModelNotFoundError for a model that is neither to be had nor cached whole, saying what was tried and what to
    do.
    """
    from huggingface_hub import constants, errors

    # Every way in which a transfer fails; HTTPError is httpx's or httpx2's, and Xet's error came with version 1.
    failures = (errors.HTTPError, OSError, RuntimeError, ValueError, getattr(errors, "XetDownloadError", OSError))  # pyright: ignore
    problem: Exception | None = None
    if not offline and not constants.HF_HUB_OFFLINE:
        try:
            with _progress(progress):
                return _download(name, weights, access)
        except PellucidError:
            raise
        except errors.RevisionNotFoundError as error:
            raise _explained(name, error, access) from None
        except failures as error:
            problem = error
    folder = cached(name, weights=weights, access=access)
    if folder is None:
        raise _explained(name, problem, access) from problem
    return folder


def cached(name: HubName, *, weights: bool = True, access: Access = USUAL) -> Path | None:
    """The model in the cache, where it is there whole; None where it is not."""
    found = _cached(name, weights, access)
    if found is None:
        return None
    folder, files = found
    if files.main is not None:
        return folder / files.main
    return folder if files.small else None


def _cached(name: HubName, weights: bool = True, access: Access = USUAL) -> tuple[Path, Needed] | None:
    """The newest snapshot's folder, and which of its files make up the model."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # asked for config.json alone, it does not mind that other files of the repository were never fetched
        folder = Path(
            snapshot_download(
                name.repo,
                revision=name.revision,
                local_files_only=True,
                allow_patterns="config.json",
                cache_dir=access.cache,
            )
        ).joinpath(access.subfolder)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        files = needed(names, lambda index: read_index(folder / index).values(), name, name.pick, weights)
    except (LocalEntryNotFoundError, HFValidationError, PellucidError):
        return None
    return folder, files


def ggufs_in_cache(repo: str) -> list[tuple[str, int]]:
    """The GGUF files of a repository that were fetched, each with its size in bytes; of a model in parts the first."""
    snapshots = folder_of(repo) / "snapshots"
    found = {
        path.relative_to(path.parents[len(path.relative_to(snapshots).parts) - 2]).as_posix(): path
        for path in sorted(snapshots.glob("*/**/*.gguf"))
        if path.is_file() and not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", path.name)
    }
    return [(name, path.stat().st_size) for name, path in found.items()]


def size_in_cache(repo: str) -> int:
    """What a repository takes in the hub's cache, all its revisions together, in bytes."""
    return sum(path.stat().st_size for path in (folder_of(repo) / "blobs").glob("*") if path.is_file())


def weights_in_cache(name: HubName) -> list[Path]:
    """The files of a chosen GGUF model in the hub's cache, whole or in parts."""
    found = _cached(name)
    return [] if found is None else [found[0] / file for file in found[1].weights]


def remove_from_cache(repo: str) -> None:
    """Remove a repository, all its revisions, from the hub's cache."""
    shutil.rmtree(folder_of(repo))


def remove_weights(files: list[Path]) -> None:
    """Remove files of a repository from the hub's cache, with what their names there lead to."""
    for file in files:
        blob = file.resolve()
        file.unlink()
        if blob != file:
            blob.unlink(missing_ok=True)


def is_in_cache(repo: str) -> bool:
    """Whether the hub's cache has anything of a repository, whole or not."""
    return folder_of(repo).is_dir()


def folder_of(repo: str) -> Path:
    """Where the hub's cache has a repository, or would have it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _download(name: HubName, weights: bool, access: Access) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi(token=access.token).model_info(name.repo, revision=name.revision, timeout=TIMEOUT)
    every = [file.rfilename for file in info.siblings or []]
    if not (names := access.inside(every)) and access.subfolder:
        folders = sorted({str(Path(file).parent) for file in every} - {"."})
        raise ModelNotFoundError(
            "the repository has no such folder",
            where=name,
            expected=", ".join(folders) or "no subfolder: it has none",
            received=access.subfolder,
        )

    def shards(index: str) -> list[str]:
        return list(
            read_index(
                Path(hf_hub_download(name.repo, access.whole(index), revision=name.revision, **access.client))
            ).values()
        )

    files = needed(names, shards, name, name.pick, weights)
    folder = _in_cache(name, info.sha, files, access) or _bring(name, files, access)
    return folder / files.main if files.main is not None else folder


def _in_cache(name: HubName, commit: str | None, files: Needed, access: Access) -> Path | None:
    """The folder of the commit, where it holds all the files."""
    from huggingface_hub import try_to_load_from_cache

    folder = None
    for file in (*files.small, *files.weights):
        path = try_to_load_from_cache(name.repo, access.whole(file), revision=commit, cache_dir=access.cache)
        if not isinstance(path, str):
            return None
        folder = Path(path).parents[file.count("/")]
    return folder


def _bring(name: HubName, files: Needed, access: Access) -> Path:
    from huggingface_hub import snapshot_download

    folder = ""
    for group in filter(None, (files.small, files.weights)):
        folder = snapshot_download(
            name.repo,
            revision=name.revision,
            etag_timeout=TIMEOUT,
            allow_patterns=[escape(access.whole(file)) for file in group],
            **access.client,
        )
    return Path(folder, access.subfolder)


@contextmanager
def _progress(wanted: bool | None) -> Iterator[None]:
    """huggingface_hub's own bars, or none."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not (sys.stderr.isatty() if wanted is None else wanted) and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def _explained(name: HubName, problem: Exception | None, access: Access) -> ModelNotFoundError:
    """What went wrong, and the cure."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{constants.ENDPOINT}/{name.repo}"
    if problem is None:
        cause = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "offline was asked for"
        what, remedy = (
            f"the model is not cached whole, and {cause}",
            f"go online once: pellucid pull {name}; or name a folder or a .gguf file on disk",
        )
        return ModelNotFoundError(what, where=name, expected=f"a snapshot in {access.cache}", remedy=remedy)
    if isinstance(problem, GatedRepoError):
        what, remedy = (
            "the model is gated: its authors want their terms accepted first",
            f"accept them at {page}, then set HF_TOKEN, or run: hf auth login",
        )
    elif isinstance(problem, RevisionNotFoundError):
        what, remedy = f"the model has no revision {name.revision or 'main'!r}", f"see {page}/commits/main"
    elif isinstance(problem, RepositoryNotFoundError):
        what, remedy = (
            "the hub has no such model, or it is private",
            "check the spelling; for a private model set HF_TOKEN, or run: hf auth login",
        )
    elif (
        isinstance(problem, HfHubHTTPError)
        and problem.response is not None
        and problem.response.status_code in (401, 403)
    ):
        what, remedy = "the hub refuses to give the model out", "check HF_TOKEN, or run: hf auth login"
    elif isinstance(problem, OSError) and problem.errno == ENOSPC:
        what, remedy = (
            "the model does not fit on the disk",
            f"free space in {access.cache}, or set HF_HOME to a folder elsewhere",
        )
    else:
        what = "the hub could not be reached, or broke off, and the model is not cached whole"
        remedy = (
            "try again (files that came whole are kept), set HF_ENDPOINT to a mirror, "
            "or name a folder or a .gguf file on disk"
        )
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return ModelNotFoundError(what, where=name, expected=page, received=lines[0][:300], remedy=remedy)
