"""Examples tokenized once: their tokens and masks in files that are memory-mapped ever after.

FOLDER/manifest.json       what they were made of and how; what was left out or cut
FOLDER/tokens.bin          ids, little-endian uint32, examples end to end; the highest bit: this token is learned
FOLDER/examples.npy        (num_examples, 2) int64: where each ends, and which record it came from; of judged ones a
                           third column, 1 for a good one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pellucid.base.errors import CheckpointError
from pellucid.base.files import atomic_write, content_hash, read_json, read_npy, write_json
from pellucid.base.typed import from_object
from pellucid.train.data.errors import DataError
from pellucid.train.data.examples import (
    Conversation,
    Example,
    Instruction,
    Pair,
    is_empty,
    is_unlearned,
    keeping_empty,
    last_alone,
    takes_system,
    with_system,
)
from pellucid.train.data.fields import Fields
from pellucid.train.data.masks import Masked, Masking
from pellucid.train.data.records import Read, read_examples
from pellucid.train.data.shards import tokenizer_hash

MANIFEST, TOKENS, INDEX = "manifest.json", "tokens.bin", "examples.npy"
VERSION = 3
LEARNED = np.uint32(2**31)
OnTooLong = Literal["cut", "skip", "error"]


@dataclass(frozen=True, kw_only=True)
class Making:
    """How records become examples. ``paired``: each is a preferred answer and a rejected one. ``judged``: each is an
    answer that was judged good or bad; of a pair both are.
    """

    context_len: int
    paired: bool = False
    judged: bool = False
    on_too_long: OnTooLong = "cut"
    fill: Mapping[str, str] = field(default_factory=dict)  # what takes the place of {{name}}
    fields: str | None = None  # user=question,assistant=answer: which columns are what
    system: str | None = None  # before conversations that have no system message of their own
    keep_empty: bool = False  # empty answers are learned, too: that nothing is to be said
    last_alone: bool = False  # of a conversation its last answer is learned alone


@dataclass
class Counts:
    """What reading came to, for the log."""

    formats: dict[str, int] = field(default_factory=dict)
    num_records: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    num_learned: int = 0
    num_truncated: int = 0
    num_too_long: int = 0  # left out
    num_own_system: int = 0  # that keep their own system message where another was given
    num_given_system: int = 0  # that have the one that was given
    num_unasked: int = 0  # conversations that the assistant begins: that message is not learned
    num_marked_bad: int = 0  # left out
    num_empty: int = 0  # left out
    num_unlearned: int = 0  # left out
    num_empty_answers: int = 0  # of conversations that stay, for what else is said in them
    first: dict[str, str] = field(default_factory=dict)  # the name of a count → the place of the first one

    def add(self, name: str, where: str, count: int = 1) -> None:
        if count:
            setattr(self, name, getattr(self, name) + count)
            self.first.setdefault(name, where)


@dataclass(frozen=True)
class Examples:
    """A folder of tokenized examples; of pairs, each chosen ending with its rejected one after it."""

    folder: Path
    paired: bool
    counts: Counts
    judged: bool = False

    @cached_property
    def _tokens(self) -> np.ndarray:
        path = self.folder / TOKENS
        if not path.is_file() or not 0 < path.stat().st_size == 4 * int(self._ends[-1]):
            raise CheckpointError("tokens are missing", where=path, expected=f"{4 * int(self._ends[-1])} bytes")
        return np.memmap(path, "<u4", "r")

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.concatenate([[0], self._index[:, 0]])

    @cached_property
    def _index(self) -> np.ndarray:
        index = read_npy(self.folder / INDEX, "<i8", 3 if self.judged else 2)
        if not len(index) or index[0, 0] <= 0 or (np.diff(index[:, 0]) <= 0).any():
            raise CheckpointError("examples do not end one after another", where=self.folder / INDEX)
        return index

    def check(self) -> None:
        """Raises: CheckpointError where the files contradict each other."""
        _ = self._tokens

    @property
    def records(self) -> np.ndarray:
        """The number of the record that each example came from."""
        return self._index[:, 1]

    @property
    def good(self) -> np.ndarray | None:
        """Of judged examples, which are good ones."""
        return self._index[:, 2].astype(bool) if self.judged else None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.diff(self._ends)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, learned) of an example: int64 and bool."""
        tokens = self._tokens[self._ends[number] : self._ends[number + 1]]
        return (tokens & ~LEARNED).astype(np.int64), tokens >= LEARNED


def tokenize_examples(
    folder: Path,
    sources: Sequence[Path],
    masking: Masking,
    making: Making,
    progress: Callable[[str], None] = lambda _: None,
) -> Examples:
    """The examples of all sources; made anew only where sources, tokenizer or settings changed.

    Each ends with the last token that is learned. One that is longer than the context loses its end, is left out, or is
    an error, as ``on_too_long`` says; where nothing that is learned would be left of it, it is left out.

    Raises: DataError naming the record.
    """
    made_of = {
        "version": VERSION,
        "sources": [[str(source), content_hash(source)] for source in sources],
        "tokenizer_sha256": tokenizer_hash(masking.tokenizer),
        "chat_template": masking.chat_template or masking.tokenizer.chat_template,
        "stop_token_ids": sorted(masking.stop_token_ids),
        **asdict(making),
    }
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST)
        if all(manifest.get(name) == value for name, value in made_of.items()):
            with suppress(CheckpointError):  # damaged: made anew
                examples = Examples(
                    folder,
                    making.paired,
                    from_object(Counts, manifest.get("counts"), folder / MANIFEST, CheckpointError),
                    making.judged,
                )
                examples.check()
                return examples
        (folder / MANIFEST).unlink()  # from here on the files are not what it says
    maker = _Maker(masking, making)
    counts, index = maker.counts, []
    with atomic_write(folder / TOKENS) as file:
        for source in sources:
            progress(f"tokenizing {source.name} …")
            for sequences in maker.sequences(source):
                for one in sequences:
                    file.write((np.asarray(one.ids, "<u4") | np.where(one.learned, LEARNED, np.uint32(0))).tobytes())
                    counts.num_tokens += len(one.ids)
                    counts.num_learned += sum(one.learned)
                    index.append((counts.num_tokens, counts.num_records, *([int(one.good)] if making.judged else [])))
                counts.num_records += 1
    counts.num_examples = len(index)
    if unused := [name for name in making.fill if name not in maker.filled]:
        raise DataError(
            "nothing in the data is to be filled",
            where=", ".join(map(str, sources))[:200],
            expected="{{" + unused[0] + "}}",
        )
    if making.system is not None and not counts.num_given_system:
        raise DataError(
            "-sys has no effect: no record is a conversation without a system message of its own",
            where=", ".join(map(str, sources))[:200],
            received=describe(counts),
            remedy="leave it out; or take the system messages out of the records",
        )
    if making.last_alone and not maker.num_alone:
        raise DataError(
            "--learn last has no effect: no conversation has more than one answer",
            where=", ".join(map(str, sources))[:200],
            received=describe(counts),
            remedy="leave it out",
        )
    if not index:
        raise DataError(
            "no example is left to learn from",
            where=", ".join(map(str, sources))[:200],
            received=describe(counts),
            remedy="a longer --context-len" if counts.num_too_long else None,
        )
    with atomic_write(folder / INDEX) as file:
        np.save(file, np.asarray(index, np.int64), allow_pickle=False)
    write_json(folder / MANIFEST, made_of | {"counts": asdict(counts)})
    return Examples(folder, making.paired, counts, making.judged)


class _Maker:
    """Records to sequences, and the count of what became of them."""

    def __init__(self, masking: Masking, making: Making) -> None:
        self.masking, self.making, self.counts = masking, making, Counts()
        self.filled: set[str] = set()  # names of placeholders that were there
        self.num_alone = 0  # conversations of which more than the last answer would be learned
        self.fields = None if making.fields is None else Fields.parse(making.fields)

    def sequences(self, source: Path) -> Iterator[list[Masked]]:
        """Of each record that is learned from: its sequences, each up to its last token that is learned, and no longer
        than the context.
        """
        formats = self.counts.formats
        for read in read_examples(source, self.making.fill, self.filled, self.fields):
            formats[read.format] = formats.get(read.format, 0) + 1
            if self.making.judged:
                yield [one for judged, good in self._judged(read) for one in self._of_judged(judged, good, read)]
                continue
            if read.example is None:
                self.counts.add("num_marked_bad", read.where)
                continue
            example = self._as_wanted(read.example, read.where)
            if is_empty(example) and not self.making.keep_empty:
                self.counts.add("num_empty", read.where)
            elif is_unlearned(example):
                self.counts.add("num_unlearned", read.where)
            else:
                if isinstance(example, Conversation):
                    self.counts.add("num_empty_answers", read.where, 0 if example.keeps_empty else example.num_empty)
                    self.counts.add("num_unasked", read.where, example.num_unasked)
                yield self._fitted(self._tokens(example, read), read.where)

    def _judged(self, read: Read) -> list[tuple[Example, bool]]:
        """The answers of a record, and whether each is a good one. Raises: DataError for one that does not say."""
        if isinstance(read.example, Pair):
            return [(read.example.chosen, True), (read.example.rejected, False)]
        if not read.is_judged:
            raise DataError(
                "nothing says whether this answer is a good one",
                where=read.where,
                expected='"label": true or false, or a pair of chosen and rejected',
                received=read.format,
                remedy="--method lora, or full",
            )
        example = read.example or read.bad
        assert example is not None
        return [(example, read.example is not None)]

    def _of_judged(self, example: Example, good: bool, read: Read) -> list[Masked]:
        """An answer's sequence; of a conversation its last answer is what was judged."""
        example = last_alone(self._as_wanted(example, read.where))
        if is_empty(example) and not self.making.keep_empty:
            self.counts.add("num_empty", read.where)
            return []
        made = self._fitted(self.masking.tokens(example, read.where), read.where)
        return [replace(one, good=good) for one in made]

    def _as_wanted(self, example: Example, where: str) -> Example:
        """With the system message, the empty answers and the last answer as they were asked for."""
        making = self.making
        if making.system is not None and takes_system(example):
            changed = with_system(example, making.system)
            self.counts.add("num_own_system" if changed is example else "num_given_system", where)
            example = changed
        if making.keep_empty:
            example = keeping_empty(example)
        if not making.last_alone:
            return example
        if isinstance(example, Instruction) and example.history and self.masking.has_chat_format:
            example = example.conversation()
        alone = last_alone(example)
        self.num_alone += alone != example
        return alone

    def _tokens(self, example: Example, read: Read) -> list[Masked]:
        if not self.making.paired:
            return self.masking.tokens(example, read.where)
        if isinstance(example, Pair):
            return list(self.masking.pair(example, read.where))
        raise DataError(
            "this is no pair of answers",
            where=read.where,
            expected="chosen and rejected",
            received=read.format,
            remedy="--method lora, or full",
        )

    def _fitted(self, made: Sequence[Masked], where: str) -> list[Masked]:
        limit = self.making.context_len + 1  # the last token is a target alone
        whole, cut = [_trimmed(one, len(one.ids)) for one in made], [_trimmed(one, limit) for one in made]
        if None in whole:
            raise DataError("nothing of this example is learned", where=where, expected="an answer that is not empty")
        fits = [one == two for one, two in zip(whole, cut, strict=True)]
        if all(fits):
            return [one for one in cut if one is not None]
        if self.making.on_too_long == "error":
            raise DataError(
                "the example is longer than the context",
                where=where,
                expected=f"at most {limit} tokens",
                received=(longest := max(len(one.ids) for one in whole if one is not None)),
                remedy=f"--context-len {longest - 1}, or --on-too-long cut or skip",
            )
        # Of a conversation whose answers stand apart some may fit; a pair is whole or absent.
        keeps = [
            fit or (self.making.on_too_long == "cut" and one is not None) for one, fit in zip(cut, fits, strict=True)
        ]
        if self.making.paired:
            keeps = [all(keeps)] * len(keeps)
        num_out = keeps.count(False) // (2 if self.making.paired else 1)
        self.counts.add("num_too_long", where, num_out)
        self.counts.add("num_truncated", where, sum(keep and not fit for keep, fit in zip(keeps, fits, strict=True)))
        return [one for one, keep in zip(cut, keeps, strict=True) if keep and one is not None]


def _trimmed(one: Masked, limit: int) -> Masked | None:
    """The first ``limit`` tokens, up to the last of them that is learned; None where none is (the first token never is:
    nothing predicts it).
    """
    learned = [False, *one.learned[1:limit]]
    if True not in learned:
        return None
    length = len(learned) - learned[::-1].index(True)
    return Masked(one.ids[:length], learned[:length])


def describe(counts: Counts) -> str:
    """``91 alpaca examples: 5,432 tokens, 2,816 learned; 3 cut at the context's end``."""
    formats = ", ".join(f"{number:,} {name}" for name, number in counts.formats.items())
    text = (
        f"{formats}: {counts.num_examples:,} sequences, {counts.num_tokens:,} tokens, "
        f"{counts.num_learned:,} of them learned"
    )
    notes = [text]
    for name, what in _LEFT_OUT.items():
        if number := getattr(counts, name):
            first = f" (first: {counts.first[name]})" if name in counts.first else ""
            notes.append(f"{number:,} {what}{first}")
    return "; ".join(notes)


_LEFT_OUT = {
    "num_truncated": "cut at the context's end",
    "num_too_long": "too long and left out",
    "num_given_system": "given the system message of -sys",
    "num_own_system": "with a system message of their own, which stays in place of that of -sys",
    "num_unasked": "that the assistant begins: that message is not learned, since nobody asked for it",
    "num_marked_bad": "left out, since their label says they are bad",
    "num_empty": "left out, since their answer is empty",
    "num_unlearned": "left out, since their weights say that nothing in them is learned",
    "num_empty_answers": "empty answers within conversations, not learned",
}
