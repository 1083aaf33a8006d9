"""``--preview``: a batch as the model will see it, and which of its tokens it learns to say, before anything is
trained.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from pellucid.cli.terminal.console import printable

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.batch import Batch

LEARNED_IN_COLOUR = ("\x1b[1;32m", "\x1b[0m")
LEARNED_IN_BRACKETS = ("⟦", "⟧")


def show_batch(batch: Batch, tokenizer: Tokenizer, about: str = "") -> None:
    """The rows to stdout: what is learned in colour on a terminal, in ⟦brackets⟧ elsewhere and under NO_COLOR; the
    counts to stderr.
    """
    from pellucid.cli.terminal.console import notice

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    before, after = LEARNED_IN_COLOUR if coloured else LEARNED_IN_BRACKETS
    num_tokens = num_learned = 0
    for name, ids, learned in sequences(batch):
        text = "".join(
            f"{before}{part}{after}" if is_learned else part for part, is_learned in pieces(tokenizer, ids, learned)
        )
        print(f"--- {name}: {len(ids)} tokens, {sum(learned)} learned ---\n{text}\n")
        num_tokens += len(ids)
        num_learned += sum(learned)
    rows, width = batch.token_ids.shape
    used = sum(len(ids) - learned[-1] for _, ids, learned in sequences(batch))
    notice(
        f"{rows} rows of {width} places: {num_tokens:,} tokens, {num_learned:,} of them learned "
        f"({'green' if coloured else 'in ⟦⟧'}), {rows * width - used:,} places of padding"
        + (f"\n{about}" if about else "")
    )


def sequences(batch: Batch) -> Iterator[tuple[str, list[int], list[bool]]]:
    """(name, ids, learned) of each text in the batch, without padding. A last target that stands in no place is the
    text's last token.
    """
    from pellucid.train.data.batch import IGNORED

    for row in range(len(batch.token_ids)):
        ids, targets = batch.token_ids[row].tolist(), batch.targets[row].tolist()
        segments = [1] * len(ids) if batch.segments is None else batch.segments[row].tolist()
        first = 0
        for _, places in groupby(segments):
            length = len(list(places))
            counted = [target != IGNORED for target in targets[first : first + length]]
            if any(counted):
                # Padding follows the last target that counts; where a document ends within a row, nothing follows it.
                stop = len(counted) - counted[::-1].index(True) if batch.segments is None else length
                name = f"row {row + 1}" if length == len(ids) else f"row {row + 1}, from place {first + 1}"
                ends = counted[stop - 1]
                whole = ids[first : first + stop] + ([targets[first + stop - 1]] if ends else [])
                yield name, whole, [False, *counted[: stop - 1], *([True] if ends else [])]
            first += length


def pieces(tokenizer: Tokenizer, ids: list[int], learned: list[bool]) -> Iterator[tuple[str, bool]]:
    """Stretches of text that are learned or not, in turn. A character whose bytes lie on both sides goes with its last
    one.
    """
    from pellucid.text.detokenizer import IncrementalDetokenizer

    stream, shown, last = IncrementalDetokenizer(tokenizer, skip_special_tokens=False), "", False
    for token_id, is_learned in zip(ids, learned, strict=True):
        if is_learned != last and shown:
            yield printable(shown), last
            shown = ""
        shown, last = shown + stream.push(token_id), is_learned
    if shown := shown + stream.flush():
        yield printable(shown), last
