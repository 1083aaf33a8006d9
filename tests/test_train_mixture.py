"""Data sets in fixed shares, and texts that are read while the model learns: sample n is always the same."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from option_walk import make_model
from test_train_going_on import QUIET, SIZES, metrics, pellucid, weights

from pellucid import AutoTokenizer
from pellucid.base.errors import RequestError
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data import streamed as streaming
from pellucid.train.data.batch import IGNORED
from pellucid.train.data.errors import DataError
from pellucid.train.data.mixture import Mixture, parse_weights
from pellucid.train.data.shards import make_shards
from pellucid.train.data.sources import streamed
from pellucid.train.data.streamed import StreamedWindows
from pellucid.train.data.windows import Stream, Windows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    (folder / "a.txt").write_text("a" * 400)
    (folder / "b.txt").write_text("话说天下大势，" * 40)
    return folder


# --- shares -----------------------------------------------------------------------------------------------------------


def test_of_three_to_one_every_fourth_is_the_others() -> None:
    mixture = Mixture([], (0.75, 0.25))
    assert [mixture.place(n) for n in range(8)] == [
        (0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (1, 1), (0, 5)
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(1, 400))
def test_each_part_gives_its_own_samples_in_order_and_its_share_of_any_first_ones(raw: list[float], count: int) -> None:
    shares = [one / sum(raw) for one in raw]
    places = [Mixture([], shares).place(n) for n in range(count)]
    for part, share in enumerate(shares):
        own = [sample for place, sample in places if place == part]
        assert own == list(range(len(own))), "none left out, none twice"
        assert abs(len(own) - share * count) <= len(shares)


def test_a_mixed_batch_is_made_of_its_parts_own_rows(books: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [books / "a.txt", books / "b.txt"], tokenizer)
    parts = [Windows(Stream(shards, "train", 0.1, (number,)), 16, seed=3) for number in (0, 1)]
    mixture = Mixture(parts, parse_weights("1,3", 2))
    batch = mixture.shuffled(5, 12)
    for row, (part, own) in enumerate(mixture.place(n) for n in range(5, 17)):
        alone = parts[part].shuffled(own, 1)
        assert torch.equal(batch.token_ids[row], alone.token_ids[0])
        assert torch.equal(batch.targets[row], alone.targets[0])
        assert torch.equal(batch.positions[row], alone.positions[0])
    assert torch.equal(mixture.shuffled(7, 3).token_ids, batch.token_ids[2:5])


@pytest.mark.parametrize("weights", ["1", "1,2,3", "1,0", "1,x", "1,-1", "1,inf", ""])
def test_weights_that_are_none_are_refused(weights: str) -> None:
    with pytest.raises(RequestError, match="a positive number for each -d"):
        parse_weights(weights, 2)


@pytest.mark.habit("training", "pretrain --mix 3,1: weights of data sets", "works")
@pytest.mark.slow
def test_a_mixed_run_says_its_shares_and_goes_on_bit_for_bit(books: Path, tmp_path: Path) -> None:
    base = ["pretrain", "-d", books / "a.txt", "-d", books / "b.txt", "--tokenizer", "char", *SIZES, *QUIET]
    base += ["--lr", 0.01, "--warmup-steps", 0, "--steps", 4, "--mix", "1,3"]
    said = pellucid(*base, "-o", tmp_path / "whole").stderr
    assert "a.txt 25% of the rows, read " in " ".join(said.split())
    for _ in range(3):
        pellucid(*base, "-o", tmp_path / "parts", "--max-minutes", 0.00001)
    pellucid("pretrain", "--config", tmp_path / "parts/run.yaml", "-o", tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    with pytest.raises(Exception, match="begun with another mix"):
        pellucid(*base[:-1], "2,1", "-o", tmp_path / "whole")


# --- streams ----------------------------------------------------------------------------------------------------------


def stream(books: Path, tokenizer: Tokenizer, **more: Any) -> StreamedWindows:
    names = [str(books / name) for name in ("a.txt", "b.txt")]
    return StreamedWindows(
        lambda: (text for name in names for text in streamed(name)), tokenizer, 16, **{"seed": 1, **more}
    )


def test_a_stream_has_every_token_of_the_texts_once_a_pass(
    books: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BUFFER", 1)  # in order
    one = stream(books, tokenizer, num_held_back=2)
    windows = list(one._windows_of_a_pass())
    whole = [token for window in windows for token in window[0][1:].tolist()]
    shards = [
        token
        for name in ("a.txt", "b.txt")
        for token in [*tokenizer.encode((books / name).read_text()), tokenizer.eos_token_id]
    ]
    assert whole == shards[1 : len(whole) + 1]
    assert len(shards) - len(whole) <= 17, "the last tokens of a pass fill no row"
    held = torch.cat([batch.token_ids for batch in one.held_back(16)])
    assert held.tolist() == [window[0][:-1].tolist() for window in windows[:2]]
    learned = one.shuffled(0, 2 * len(windows)).token_ids.tolist()
    assert not any(row in learned and row[0] != row[1] for row in held.tolist()), "what is held back is never learned"


@pytest.mark.parametrize("mask", [True, False])
def test_sample_n_is_always_the_same(books: Path, tokenizer: Tokenizer, mask: bool) -> None:
    ahead = stream(books, tokenizer, mask_documents=mask)
    batch = ahead.shuffled(0, 600)
    assert torch.equal(ahead.shuffled(40, 8).token_ids, batch.token_ids[40:48]), "kept"
    assert torch.equal(ahead.shuffled(500, 8).token_ids, batch.token_ids[500:508]), "read once more"
    again = stream(books, tokenizer, mask_documents=mask).shuffled(590, 10)
    assert torch.equal(again.token_ids, batch.token_ids[590:])
    assert torch.equal(again.targets, batch.targets[590:])
    counts = Counter(tuple(row) for row in batch.token_ids.tolist())
    assert len(counts) > 20, "it is shuffled, and every window comes"
    other = stream(books, tokenizer, mask_documents=mask, seed=2).shuffled(0, 600)
    assert not torch.equal(other.token_ids, batch.token_ids)


def test_a_streamed_token_sees_its_own_document_alone(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows as of texts that were tokenized beforehand."""
    monkeypatch.setattr(streaming, "BUFFER", 1)
    texts = ["abcdef", "ghi", "jklmnopqrstuv", "w", "xyz01234567"] * 4
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    one = StreamedWindows(lambda: streamed(str(tmp_path / "t.jsonl")), tokenizer, 8)
    shards = make_shards(tmp_path / "shards", [tmp_path / "t.jsonl"], tokenizer)
    expected = next(iter(Windows(Stream(shards, "train", 0.0), 8).in_order(10)))
    batch = one.shuffled(0, 10)
    for name in ("token_ids", "targets", "positions", "segments"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert (batch.targets == IGNORED).any()


def test_texts_that_are_too_short_for_a_row_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "t.txt").write_text("short")
    one = StreamedWindows(lambda: streamed(str(tmp_path / "t.txt")), tokenizer, 16, num_held_back=1)
    with pytest.raises(DataError, match="too short to learn from"):
        one.shuffled(0, 1)


@pytest.mark.habit("training", "pretrain --stream", "works")
def test_a_streamed_run_goes_on_bit_for_bit_and_keeps_no_tokens(books: Path, model: Path, tmp_path: Path) -> None:
    base = ["pretrain", "-d", books, "--tokenizer", model, "--stream", *SIZES, *QUIET]
    base += ["--lr", 0.01, "--warmup-steps", 0, "--steps", 4, "--eval-rows", 2]
    pellucid(*base, "-o", tmp_path / "whole")
    for _ in range(4):
        pellucid(*base, "-o", tmp_path / "parts", "--max-minutes", 0.00001)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not (tmp_path / "whole/data").exists()
    assert "val_loss" in metrics(tmp_path / "whole")[-1]
    losses = [line["loss"] for line in metrics(tmp_path / "whole")]
    assert losses == [line["loss"] for line in metrics(tmp_path / "parts")]
    assert any(one != other for one, other in pairwise(losses))


@pytest.mark.habit("data", "pretrain -d hf:… --stream", "works")
@pytest.mark.slow
def test_a_data_set_in_the_hubs_layout_is_streamed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    rows = "".join(json.dumps({"text": f"第{n}回 " + "话说天下大势" * 3}) + "\n" for n in range(30))
    (tmp_path / "set/train.jsonl").write_text(rows)
    texts = ["".join(pieces) for pieces in streamed(f"hf:{tmp_path / 'set'}")]
    assert texts == [json.loads(line)["text"] for line in rows.splitlines()]
    words = ["--tokenizer", model, "--stream", *SIZES, *QUIET, "--steps", 2, "--eval-rows", 2, "-o", tmp_path / "run"]
    pellucid("pretrain", "-d", f"hf:{tmp_path / 'set'}", *words)
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream", "--steps", 2], "a tokenizer cannot be learned from it"),
        (["--stream", "--tokenizer", "{model}"], "nobody knows how long a stream is"),
        (["--stream", "--tokenizer", "{model}", "--steps", 2, "--mix", "1"], "do not go together"),
        (["--mix", "1,2"], "a positive number for each -d"),
        (["-d", "{books}/a.txt", "--mix", "1,2"], "those of another one"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    words: list[Any], message: str, books: Path, model: Path, tmp_path: Path
) -> None:
    filled = [word.format(model=model, books=books) if isinstance(word, str) else word for word in words]
    with pytest.raises(RequestError, match=message):
        pellucid("pretrain", "-d", books, *SIZES, *QUIET, *filled, "-o", tmp_path / "run")
