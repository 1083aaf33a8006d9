"""Token shards: each source tokenized once into a file of ids that is memory-mapped ever after.

    FOLDER/manifest.json         tokenizer and sources by hash, shards by size; written anew after every shard
    FOLDER/00000.tokens.bin      ids, little-endian uint16 (uint32 beyond 65,536 words), documents end to end
    FOLDER/00000.documents.npy   where each document begins, int64

A source that is in the manifest is not tokenized again, so a run that was interrupted goes on with the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.base.errors import CheckpointError
from pellucid.base.files import atomic_write, content_hash, read_json, read_npy, write_json
from pellucid.base.typed import from_object
from pellucid.text.readers.fast import DifferentIdsError
from pellucid.train.data.sources import DataError, documents

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

MANIFEST = "manifest.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One source, tokenized."""

    source: str
    source_bytes: int
    source_sha256: str
    num_documents: int
    num_tokens: int


@dataclass(frozen=True)
class Shards:
    """A folder of shards."""

    folder: Path
    dtype: str
    marks_start: bool  # each document begins with BOS
    marks_end: bool  # each document ends with an EOS that is not BOS
    shards: tuple[Shard, ...]

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)

    def tokens(self, number: int) -> np.ndarray:
        """A shard's ids, mapped. Raises: DataError where the file is not as long as the manifest says."""
        path, shard = _tokens_file(self.folder, number), self.shards[number]
        expected = shard.num_tokens * np.dtype(self.dtype).itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise DataError(
                "a shard is absent or truncated",
                where=path,
                expected=f"{expected} bytes",
                remedy=f"remove {self.folder}, to tokenize again",
            )
        return np.memmap(path, self.dtype, "r") if expected else np.zeros(0, self.dtype)

    def document_starts(self, number: int) -> np.ndarray:
        return read_npy(_starts_file(self.folder, number), "<i8")


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Changes when the vocabulary does, or what is put around a document."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(
        repr((words, tokenizer.bos_token_id, tokenizer.eos_token_id)).encode("utf-8", "surrogatepass")
    ).hexdigest()


def make_shards(
    folder: Path,
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    fields: Sequence[str] = ("text",),
    separator: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Shards:
    """Tokenize the sources that are not tokenized yet. Around each document go BOS and EOS where the tokenizer has
    them; one that is both goes before, so that it also follows the document before it.

    Raises: DataError for a text that cannot be read, or where all are empty.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prefix = [] if bos is None else [bos]
    suffix = [] if eos is None or eos == bos else [eos]
    dtype = "<u2" if len(tokenizer) <= 2**16 else "<u4"
    making = {
        "version": VERSION,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "fields": list(fields),
        "separator": separator,
        "dtype": dtype,
    }
    making |= {"marks_start": bool(prefix), "marks_end": bool(suffix)}
    try:
        done = _make(folder, sources, tokenizer, making, prefix, suffix, progress)
    except DifferentIdsError:
        progress("the fast library gives other ids than `tokenizers`: all anew, the slow way …")
        (folder / MANIFEST).unlink(missing_ok=True)
        done = _make(folder, sources, tokenizer, making, prefix, suffix, progress)
    if not sum(shard.num_tokens for shard in done):
        raise DataError("the texts are empty", where=", ".join(map(str, sources))[:200])
    write_json(folder / MANIFEST, making | {"shards": [asdict(shard) for shard in done]})
    return Shards(folder, dtype, bool(prefix), bool(suffix), tuple(done))


def _make(
    folder: Path,
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    making: dict[str, Any],
    prefix: list[int],
    suffix: list[int],
    progress: Callable[[str], None],
) -> list[Shard]:
    known, dtype = _known(folder, making), making["dtype"]
    fields, separator = making["fields"], making["separator"]
    corpus = sum(source.stat().st_size for source in sources)
    done: list[Shard] = []
    for number, source in enumerate(sources):
        identity = {"source": str(source), "source_bytes": source.stat().st_size, "source_sha256": content_hash(source)}
        if number < len(known) and identity == {name: getattr(known[number], name) for name in identity}:
            done.append(known[number])
            continue
        known = []  # those after a source that changed are numbered anew
        progress(f"tokenizing {source.name} …")
        starts: list[int] = []
        num_tokens = 0
        with atomic_write(_tokens_file(folder, number)) as file:
            for ids, first in _encoded(documents(source, fields, separator), tokenizer, prefix, suffix, corpus):
                starts.extend((num_tokens + first).tolist())
                file.write(ids.astype(dtype).tobytes())
                num_tokens += len(ids)
        with atomic_write(_starts_file(folder, number)) as file:
            np.save(file, np.asarray(starts, np.int64), allow_pickle=False)
        done.append(Shard(**identity, num_documents=len(starts), num_tokens=num_tokens))
        write_json(folder / MANIFEST, making | {"shards": [asdict(shard) for shard in done]})
    return done


def _encoded(
    texts: Iterator[Iterator[str]], tokenizer: Tokenizer, prefix: list[int], suffix: list[int], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ids of many documents at a time, in order, and where documents begin in them. ``size``: of the corpus."""
    waiting: list[tuple[str, bool, bool]] = []  # text, is the first piece, is the last piece
    num_characters = 0
    for pieces in texts:
        first, piece = True, next(pieces, "")
        while True:
            following = next(pieces, None)
            waiting.append((piece, first, following is None))
            num_characters += len(piece)
            if num_characters > 2**22:
                yield _encode(waiting, tokenizer, prefix, suffix, size)
                waiting, num_characters = [], 0
            if following is None:
                break
            first, piece = False, following
    yield _encode(waiting, tokenizer, prefix, suffix, size)


def _encode(
    waiting: Sequence[tuple[str, bool, bool]], tokenizer: Tokenizer, prefix: list[int], suffix: list[int], size: int
) -> tuple[np.ndarray, np.ndarray]:
    ids, starts = tokenizer.encode_corpus([text for text, _, _ in waiting], size)
    places, values, begins = [], [], []  # what is put between the ids, and where
    for place, (_, first, last) in enumerate(waiting):
        if first:
            begins.append(int(starts[place]) + len(places))
            places += [starts[place]] * len(prefix)
            values += prefix
        if last:
            places += [starts[place + 1]] * len(suffix)
            values += suffix
    return np.insert(ids, places, values) if places else ids, np.array(begins, np.int64)


def _known(folder: Path, making: dict[str, Any]) -> list[Shard]:
    """Shards that were made the same way before."""
    if not (folder / MANIFEST).is_file():
        return []
    manifest = read_json(folder / MANIFEST)
    if any(manifest.get(name) != value for name, value in making.items()):
        return []
    shards = manifest.get("shards")
    if not isinstance(shards, list):
        raise CheckpointError("the manifest names no shards", where=folder / MANIFEST, remedy=f"remove {folder}")
    return [from_object(Shard, shard, folder / MANIFEST, CheckpointError) for shard in shards]


def _tokens_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.tokens.bin"


def _starts_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.documents.npy"
