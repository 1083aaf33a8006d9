"""Training data: what is read, how it is cut, in which order it comes, and what a token may see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import telling

from pellucid import AutoTokenizer
from pellucid.base.errors import ConfigError
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.data.shards import Shards, make_shards
from pellucid.train.data.sources import PIECE, DataError, documents, find_sources
from pellucid.train.data.tokenizer import save_tokenizer, train_bpe, train_characters
from pellucid.train.data.windows import Stream, Windows

POEMS = ["床前明月光，\n疑是地上霜。\n", "Tyger Tyger, burning bright,\n", "a", "白日依山尽，黄河入海流。"]


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    path = tmp_path / "poems.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text, "title": "t"}, ensure_ascii=False) + "\n" for text in POEMS), "utf-8"
    )
    return path


@pytest.fixture
def tokenizer(poems: Path, tmp_path: Path) -> Tokenizer:
    save_tokenizer(train_characters([poems]), tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.fixture
def shards(poems: Path, tokenizer: Tokenizer, tmp_path: Path) -> Shards:
    return make_shards(tmp_path / "data", [poems], tokenizer)


def read(path: Path, **settings: object) -> list[str]:
    return ["".join(pieces) for pieces in documents(path, **settings)]  # type: ignore[arg-type]


# --- sources ---------------------------------------------------------------------------------------------------------


def test_json_lines_json_lists_and_plain_text_are_told_apart(poems: Path, tmp_path: Path) -> None:
    assert read(poems) == POEMS
    (tmp_path / "list.json").write_text(json.dumps([{"title": "A", "content": "b"}, {"title": "C", "content": "d"}]))
    assert read(tmp_path / "list.json", fields=("title", "content")) == ["A\nb", "C\nd"]
    (tmp_path / "plain.txt").write_text("one\n---\ntwo\nthree\n")
    assert read(tmp_path / "plain.txt") == ["one\n---\ntwo\nthree\n"]
    assert read(tmp_path / "plain.txt", separator="---") == ["one\n", "two\nthree\n"]


def test_a_long_text_comes_in_pieces_that_are_the_text(tmp_path: Path) -> None:
    text = "明月几时有？把酒问青天。\n" * (PIECE // 20)
    (tmp_path / "long.txt").write_text(text, "utf-8")
    (pieces,) = documents(tmp_path / "long.txt")
    cut = list(pieces)
    assert len(cut) > 1
    assert "".join(cut) == text
    assert all(piece.endswith("\n") for piece in cut)


def test_folders_and_globs_are_found_once_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.jsonl", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_sources([str(tmp_path), str(tmp_path / "*.txt")])
    assert [path.name for path in found] == ["a.txt", "b.txt", "c.jsonl"]


def test_what_is_wrong_with_a_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text here"):
        find_sources([str(tmp_path / "absent*")])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8 near byte 3"):
        read(tmp_path / "latin.txt")
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n{"content": "b"}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl, line 2.*expected \"text\", received content"):
        read(tmp_path / "odd.jsonl")


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_a_character_tokenizer_gives_every_character_back_and_knows_strangers(tokenizer: Tokenizer) -> None:
    for text in POEMS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("é", add_special_tokens=False) == [tokenizer.unk_token_id]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_byte_level_bpe_gives_any_text_back(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "bpe"
    if not folder.exists():
        source = folder.with_suffix(".txt")
        source.write_text("".join(POEMS) * 5, "utf-8")
        save_tokenizer(train_bpe([source], 300), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_transformers_reads_a_tokenizer_of_ours(poems: Path, tmp_path: Path) -> None:
    import transformers

    save_tokenizer(train_bpe([poems], 300), tmp_path / "bpe")
    theirs, ours = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "bpe"),
        AutoTokenizer.from_pretrained(tmp_path / "bpe"),
    )
    assert theirs.encode(POEMS[0]) == ours.encode(POEMS[0])
    with pytest.raises(ConfigError, match="257"):
        train_bpe([poems], 100)


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_hold_every_document_after_its_mark(shards: Shards, tokenizer: Tokenizer) -> None:
    ids = shards.tokens(0).tolist()
    expected = [
        i for text in POEMS for i in [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    ]
    assert ids == expected
    assert [ids[start] for start in shards.document_starts(0)] == [tokenizer.bos_token_id] * len(POEMS)


def test_a_source_is_tokenized_once_until_it_changes(poems: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("a burning Tyger\n")
    said: list[str] = []
    make_shards(tmp_path / "data", [poems, other], tokenizer, progress=said.append)
    make_shards(tmp_path / "data", [poems, other], tokenizer, progress=said.append)
    assert said == ["tokenizing poems.jsonl …", "tokenizing other.txt …"]
    other.write_text("a bright Tyger\n")
    again = make_shards(tmp_path / "data", [poems, other], tokenizer, progress=said.append)
    assert said[2:] == ["tokenizing other.txt …"]
    assert tokenizer.decode(again.tokens(1).tolist(), skip_special_tokens=True) == "a bright Tyger\n"


def test_a_truncated_shard_is_an_error(shards: Shards) -> None:
    path = shards.folder / "00000.tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="truncated"):
        shards.tokens(0)


# --- windows ---------------------------------------------------------------------------------------------------------


def test_splits_share_nothing_and_lose_nothing(shards: Shards) -> None:
    train, val = Stream(shards, "train", 0.25), Stream(shards, "val", 0.25)
    assert train.read(0, len(train))[0].tolist() + val.read(0, len(val))[0].tolist() == shards.tokens(0).tolist()


def test_targets_are_the_next_tokens(shards: Shards) -> None:
    for batch in Windows(Stream(shards, "train", 0.0), 8, mask_documents=False).in_order(2):
        assert torch.equal(batch.token_ids[:, 1:], batch.targets[:, :-1])


def test_an_epoch_has_every_window_once_and_the_next_another_order(shards: Shards) -> None:
    windows = Windows(Stream(shards, "train", 0.0), 4, seed=3)
    count = windows.epoch_windows
    first, second = (
        [windows._place(sample) for sample in range(epoch * count, (epoch + 1) * count)] for epoch in (0, 1)
    )
    assert sorted(first) == list(range(min(first), min(first) + 4 * count, 4))
    assert [place - min(first) for place in first] != [place - min(second) for place in second]
    again = Windows(Stream(shards, "train", 0.0), 4, seed=3)
    assert [again._place(sample) for sample in range(count)] == first, "the seed decides"


def test_processes_share_a_step_without_losing_or_doubling_a_sample(shards: Shards) -> None:
    windows = Windows(Stream(shards, "train", 0.0), 4)
    whole = windows.shuffled(0, 6).token_ids
    shares = [windows.shuffled(rank * 3, 3).token_ids for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(shares))


def test_too_little_text_is_an_error(shards: Shards) -> None:
    with pytest.raises(DataError, match="--context-len"):
        Windows(Stream(shards, "train", 0.0), 4096)


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_a_packed_document_is_computed_as_if_it_were_alone(family: str, shards: Shards) -> None:
    model = Decoder(FAMILIES[family].config(FAMILIES[family].TINY)).initialize(torch.Generator().manual_seed(0))
    (batch,) = Windows(Stream(shards, "train", 0.0), 56).in_order(1)
    batch = Batch(batch.token_ids % 96, batch.targets, batch.positions, batch.segments)
    assert batch.segments is not None
    packed = model.hidden(batch.token_ids, batch.context())[0]
    assert int(batch.segments.max()) >= 3
    for segment in batch.segments[0].unique():
        its = batch.segments[0] == segment
        ids = batch.token_ids[:, its]
        alone = model.hidden(ids, Batch.of(ids, ids).context())[0]
        torch.testing.assert_close(packed[its], alone, rtol=1e-4, atol=1e-5)


def test_a_document_is_asked_for_its_end_and_never_for_the_next_one(
    tmp_path: Path, poems: Path, tokenizer: Tokenizer
) -> None:
    (marked,) = Windows(Stream(make_shards(tmp_path / "a", [poems], tokenizer), "train", 0.0), 40).in_order(1)
    assert IGNORED not in marked.targets, "the mark before the next document ends this one"
    tokenizer.bos_token = None
    tokenizer.eos_token = None
    (unmarked,) = Windows(Stream(make_shards(tmp_path / "b", [poems], tokenizer), "train", 0.0), 38).in_order(1)
    assert unmarked.segments is not None
    last = (unmarked.segments[:, 1:] != unmarked.segments[:, :-1]).nonzero()
    assert len(last) > 0
    assert all(unmarked.targets[row, place] == IGNORED for row, place in last)
