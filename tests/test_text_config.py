"""What tokenizer_config.json asks for: each key done as transformers does it, known to be harmless, or named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

import pellucid
from pellucid.base import notice
from pellucid.base.errors import TokenizerError
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.byte_level import CHAR_OF_BYTE
from pellucid.text.readers.byte_tokens import TOKEN_OF_BYTE
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, build_model
from pellucid.text.readers.tokenizer_json import JsonTokenizer

TEXTS = ["hello", "hello w 12", "</s>hello</s> hello\n", " two  spaces", ""]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIAL = ("<s>", "</s>", "<unk>", "<|endoftext|>")
MERGES = [("h", "e"), ("l", "l"), ("Ġ", "he"), ("Ġ", "w"), ("Ġ", "1")]


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_told", set())


def folder(path: Path, config: dict[str, Any], model: dict[str, Any] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    if model is not None:
        (path / "config.json").write_text(json.dumps(model))
    return path


def byte_vocabulary() -> dict[str, int]:
    tokens = [*SPECIAL, *CHAR_OF_BYTE.values(), *(a + b for a, b in MERGES)]
    return {token: place for place, token in enumerate(dict.fromkeys(tokens))}


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "byte level": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "byte level, spaced": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
    "qwen": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level(path: Path, split: str, *, bos: bool) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=MERGES))
    backend.pre_tokenizer = SPLITS[split]()  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens(list(SPECIAL))
    if bos:
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    backend.save(str(path / "tokenizer.json"))


def metaspace(path: Path, kind: str, *, bos: bool) -> None:
    """Llama's tokenizer.json: of old, spaces made by normalizers; of today, by Metaspace."""
    tokens = ["<unk>", "<s>", "</s>", *TOKEN_OF_BYTE, *"▁helowts12", "he", "ll", "▁he", "▁w"]
    merges = [("h", "e"), ("l", "l"), ("▁", "he"), ("▁", "w")]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: place for place, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if kind == "normalizers":
        backend.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(  # pyright: ignore[reportAttributeAccessIssue]
            prepend_scheme=kind, split=False
        )
    backend.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    if bos:
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
    backend.save(str(path / "tokenizer.json"))


def assert_as_transformers(path: Path, says: object) -> None:
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours(text).input_ids == ids, (says, text, theirs.convert_ids_to_tokens(ids), ours.tokenize(text))
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip), says
    assert ours("hello", "w").input_ids == theirs("hello", "w")["input_ids"], says
    prefix, suffix = ours.around()
    assert [*prefix, *ours.encode("hello", add_special_tokens=False), *suffix] == theirs("hello")["input_ids"]


# --- tokenizer.json --------------------------------------------------------------------------------------------------

ASKED: list[dict[str, Any]] = [
    {},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False},
]


@pytest.mark.parametrize(
    "kind", ["GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizerFast", "PreTrainedTokenizerFast", "LlamaTokenizer"]
)
@pytest.mark.parametrize("bos", [False, True], ids=["no template", "template"])
def test_byte_level_classes_do_what_the_config_asks_as_transformers(tmp_path: Path, kind: str, bos: bool):
    for split, asked in itertools.product(("byte level", "byte level, spaced"), ASKED):
        path = folder(tmp_path, {**NAMED, "tokenizer_class": kind, **asked})
        byte_level(path, split, bos=bos)
        assert_as_transformers(path, (split, asked))


@pytest.mark.parametrize("bos", [False, True], ids=["no template", "template"])
def test_qwen_s_class_does_what_the_config_asks_as_transformers(tmp_path: Path, bos: bool):
    for asked in ASKED:
        path = folder(tmp_path, {**NAMED, "tokenizer_class": "Qwen2Tokenizer", **asked})
        byte_level(path, "qwen", bos=bos)
        assert_as_transformers(path, asked)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "mistral", "qwen3", "llama"])
def test_the_model_s_type_chooses_the_class_as_in_transformers(tmp_path: Path, model_type: str):
    split = "qwen" if model_type.startswith("qwen") else "byte level, spaced"
    for kind, asked in itertools.product((None, "GPT2Tokenizer"), ASKED[:3]):
        if kind and model_type.startswith("qwen"):
            continue  # a folder that contradicts itself; transformers cuts by GPT-2's pattern, we by the file's
        named = {"tokenizer_class": kind} if kind else {}
        path = folder(tmp_path, {**NAMED, **named, **asked}, {"model_type": model_type})
        byte_level(path, split, bos=False)
        assert_as_transformers(path, (kind, asked))


@pytest.mark.parametrize(
    "kind", ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "PreTrainedTokenizerFast"]
)
@pytest.mark.parametrize("spaces", ["normalizers", "first", "always", "never"])
def test_llama_s_classes_do_what_the_config_asks_as_transformers(tmp_path: Path, kind: str, spaces: str):
    names = {"prefix_token": None, "middle_token": None, "suffix_token": None, "eot_token": None, "fill_token": None}
    names = names if kind.startswith("Code") else {}
    for bos, legacy, asked in itertools.product((False, True), (None, True, False), ASKED):
        asked = {**asked, **({} if legacy is None else {"legacy": legacy})}
        path = folder(tmp_path, {**NAMED, **names, "tokenizer_class": kind, **asked})
        metaspace(path, spaces, bos=bos)
        assert_as_transformers(path, (bos, asked))


def test_a_file_that_cuts_otherwise_than_its_class_keeps_its_way_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """SmolLM's: digits one by one under GPT2Tokenizer, which transformers 5 forgets and the model was trained with."""
    path = folder(tmp_path, {**NAMED, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False})
    byte_level(path, "byte level", bos=False)
    content = json.loads((path / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, content["pre_tokenizer"]],
    }
    assert told(path, capsys) == []
    (path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(path).tokenize("he 12") == ["he", "Ġ", "1", "2"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("it cuts text otherwise than the tokenizer_class beside it would, and is followed")
    byte_level(folder(path, {**NAMED, "tokenizer_class": "PreTrainedTokenizerFast"}), "qwen", bos=False)
    assert told(path, capsys) == []
    other = folder(tmp_path / "other", {**NAMED, "tokenizer_class": "Qwen2Tokenizer"})
    metaspace(other, "first", bos=False)
    assert len(told(other, capsys)) == 1


@pytest.mark.parametrize(("kind", "names"), [("GPT2Tokenizer", ("bos_token", "eos_token", "unk_token")),
                                             ("Qwen2Tokenizer", ("eos_token", "pad_token", "unk_token"))])  # fmt: skip
def test_a_class_s_own_special_tokens_hold_where_the_config_names_none(
    tmp_path: Path, kind: str, names: tuple[str, ...]
):
    path = folder(tmp_path, {"tokenizer_class": kind})
    byte_level(path, "qwen" if kind.startswith("Qwen") else "byte level", bos=False)
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    assert ours.special_tokens_map == theirs.special_tokens_map == dict.fromkeys(sorted(names), "<|endoftext|>")
    assert len(ours) == len(theirs)
    folder(tmp_path, {"tokenizer_class": kind, "eos_token": None})
    assert load_tokenizer(path).eos_token is None


def test_what_is_put_around_a_text_is_told_apart_in_any_vocabulary():
    """Even where no text of the probe is in it."""
    for tokens in (["<s>", "</s>", "z"], ["<s>", "</s>"]):
        backend = tokenizers.Tokenizer(
            models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
        )
        backend.add_special_tokens(["<s>", "</s>"])
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        around = JsonTokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"}, "test").around()
        assert around == (([0], [1]) if "z" in tokens else ([0, 1], []))


# --- vocab.json and merges.txt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer", "GPT2TokenizerFast"])
def test_vocab_and_merges_do_what_the_config_asks_as_transformers(tmp_path: Path, kind: str):
    asked = [
        dict(zip(("add_bos_token", "add_eos_token", "add_prefix_space"), values, strict=True))
        for values in itertools.product((None, True, False), (False, True), (False, True))
    ]
    (tmp_path / "vocab.json").write_text(json.dumps(byte_vocabulary()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)))
    for some in asked:
        wishes = {key: value for key, value in some.items() if value is not None}
        for names in (NAMED, {}):
            if wishes.get("add_bos_token") and not names and kind.startswith("Qwen"):
                continue  # no BOS to add: transformers forgets the end too, we name it (below)
            path = folder(tmp_path, {**names, "tokenizer_class": kind, **wishes})
            assert_as_transformers(path, (names, wishes))


# --- tokenizer.model: the oracle is SentencePiece, since transformers 5 merges otherwise -----------------------------


def sentencepiece_folder(path: Path, config: dict[str, Any]) -> Path:
    path = folder(path, config)
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(token, 0.0, BYTE) for token in TOKEN_OF_BYTE]
    pieces += [(token, -float(n), NORMAL) for n, token in enumerate(["▁he", "he", "ll", "▁w", *"▁helowts12"])]
    model = build_model(
        pieces, unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )
    (path / "tokenizer.model").write_bytes(model)
    return path


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, ["<s>", "▁he", "ll", "o", "</s>", "▁he"]),
        ({"legacy": False}, ["<s>", "▁he", "ll", "o", "</s>", "he"]),
        ({"add_prefix_space": True, "legacy": False}, ["<s>", "▁he", "ll", "o", "</s>", "he"]),
        ({"add_prefix_space": False}, ["<s>", "he", "ll", "o", "</s>", "he"]),
        ({"add_prefix_space": False, "legacy": False}, ["<s>", "he", "ll", "o", "</s>", "he"]),
        ({"add_bos_token": False}, ["▁he", "ll", "o", "</s>", "▁he"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["▁he", "ll", "o", "</s>", "▁he", "</s>"]),
    ],
    ids=str,
)
def test_a_sentencepiece_model_does_what_the_config_asks(tmp_path: Path, asked: dict[str, Any], tokens: list[str]):
    path = sentencepiece_folder(tmp_path, {"tokenizer_class": "LlamaTokenizer", **asked})
    ours = load_tokenizer(path)
    ids = ours("hello</s>he").input_ids
    assert ours.convert_ids_to_tokens(ids) == tokens
    # Where all is said, and no two spaces meet, transformers is an oracle too.
    whole = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, **asked}
    folder(path, whole)
    theirs = AutoTokenizer.from_pretrained(path)
    assert ids == load_tokenizer(path)("hello</s>he").input_ids == theirs("hello</s>he")["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids)
    saved = tmp_path / "saved"
    ours.save_pretrained(saved)
    assert load_tokenizer(saved)("hello</s>he").input_ids == ids


# --- special tokens --------------------------------------------------------------------------------------------------

EMPTY: list[Any] = ["", {"content": "", "lstrip": False}]


@pytest.mark.parametrize("empty", EMPTY, ids=["string", "object"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_empty_special_tokens_are_the_sentencepiece_model_s_own(tmp_path: Path, empty: Any, file: str):
    names = {"bos_token": empty, "eos_token": empty, "unk_token": empty, "pad_token": empty, "cls_token": empty}
    listed = {"additional_special_tokens": ["", "</s>"]}
    path = sentencepiece_folder(tmp_path, {})
    (path / file).write_text(json.dumps({**names, **listed}))
    (path / "added_tokens.json").write_text(json.dumps({"": 5000}))
    tokenizer = load_tokenizer(path)
    assert tokenizer("hello").input_ids == [1, 259, 261, 267]  # <s> ▁he ll o
    assert tokenizer.special_tokens_map == NAMED
    assert len(tokenizer) == tokenizer.vocab_size
    assert tokenizer.pad_token_id is None


@pytest.mark.parametrize("empty", EMPTY, ids=["string", "object"])
def test_empty_special_tokens_beside_tokenizer_json_are_none(tmp_path: Path, empty: Any):
    path = folder(
        tmp_path, {"bos_token": empty, "eos_token": "</s>", "pad_token": empty, "image_token": empty,
                   "extra_special_tokens": {"boi": empty}, "added_tokens_decoder": {"7000": {"content": ""}}}
    )  # fmt: skip
    byte_level(path, "byte level", bos=False)
    tokenizer = load_tokenizer(path)
    assert tokenizer.special_tokens_map == {"eos_token": "</s>"}
    assert len(tokenizer) == len(byte_vocabulary())
    for change in (
        lambda: tokenizer.add_tokens([""]),
        lambda: tokenizer.add_special_tokens({"pad_token": ""}),
        lambda: setattr(tokenizer, "pad_token", ""),
        lambda: setattr(tokenizer, "pad_token_id", 99999),
    ):
        with pytest.raises(TokenizerError):
            change()


@pytest.mark.parametrize("make", [lambda path: byte_level(path, "byte level", bos=False), None], ids=["json", "model"])
def test_split_special_tokens_makes_text_of_them_but_not_of_the_template_s(tmp_path: Path, make: Any):
    config = {**NAMED, "split_special_tokens": True, "chat_template": "</s>{{ messages[0].content }}"}
    if make:
        make(folder(tmp_path, config))
    else:
        sentencepiece_folder(tmp_path, {**config, "add_bos_token": False})
    tokenizer = load_tokenizer(tmp_path)
    end = tokenizer.eos_token_id
    assert end not in tokenizer("he</s>", add_special_tokens=False).input_ids
    assert end not in [piece.id for piece in tokenizer.pieces("he</s>")]
    if make:
        assert tokenizer("he</s>").input_ids == AutoTokenizer.from_pretrained(tmp_path)("he</s>")["input_ids"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he"}], return_dict=False)
    assert chat[0] == end
    tokenizer.split_special_tokens = False
    assert end in tokenizer("he</s>").input_ids


# --- set by whoever loads it -----------------------------------------------------------------------------------------


def test_settings_of_from_pretrained_do_what_transformers_ones_do(tmp_path: Path):
    path = folder(tmp_path, {**NAMED, "tokenizer_class": "GPT2Tokenizer"})
    byte_level(path, "byte level", bos=False)
    settings: list[dict[str, Any]] = [
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_eos_token": True},
        {"add_prefix_space": True},
        {"add_prefix_space": True, "add_bos_token": True},
    ]
    for asked in settings:
        ours = pellucid.AutoTokenizer.from_pretrained(path, **asked)
        theirs = AutoTokenizer.from_pretrained(path, **asked)
        for text in TEXTS:
            assert ours(text).input_ids == theirs(text)["input_ids"], asked
        ours.save_pretrained(tmp_path / "saved")
        assert load_tokenizer(tmp_path / "saved")("hello").input_ids == ours("hello").input_ids
    folder(path, {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(TokenizerError, match="has no bos_token"):
        pellucid.AutoTokenizer.from_pretrained(path, add_bos_token=True)
    with pytest.raises(TokenizerError, match="add_prefix_space has no effect"):
        pellucid.AutoTokenizer.from_pretrained(path, add_prefix_space=True)


# --- named -----------------------------------------------------------------------------------------------------------


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    load_tokenizer(path)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_key_that_nobody_reads_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = {**NAMED, "rope_of_text": 1, "sp_model_kwargs": {"enable_sampling": True}, "errors": "strict",
              "image_token": "<img>", "name_or_path": "x", "add_foo_token": True}  # fmt: skip
    path = folder(tmp_path, config)
    byte_level(path, "byte level", bos=False)
    (line,) = told(path, capsys)
    assert line.startswith("pellucid: ")
    assert "tokenizer_config.json: nothing here reads add_foo_token, errors='strict', " in line
    assert line.endswith("rope_of_text, sp_model_kwargs={'enable_sampling': True}; they have no effect")
    assert told(path, capsys) == []


@pytest.mark.parametrize(
    ("config", "bos", "names"),
    [
        ({"add_bos_token": True}, False, ["add_bos_token=true"]),
        ({"add_bos_token": False}, True, ["add_bos_token=false"]),
        ({"add_eos_token": True}, False, ["add_eos_token=true"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}, False, ["add_prefix_space=true"]),
        ({"add_bos_token": True, "add_eos_token": False, "add_prefix_space": False}, True, []),
        ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, False, []),
    ],
    ids=str,
)
def test_a_wish_that_tokenizer_json_overrules_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], bos: bool, names: list[str]
):
    path = folder(tmp_path, {**NAMED, **config})
    byte_level(path, "byte level", bos=bos)
    lines = told(path, capsys)
    assert len(lines) == len(names)
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_a_bos_that_nobody_named_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "vocab.json").write_text(json.dumps(byte_vocabulary()))
    (tmp_path / "merges.txt").write_text("h e")
    path = folder(tmp_path, {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": True, "add_eos_token": True})
    (line,) = told(path, capsys)
    assert "add_bos_token=true is without effect" in line
    assert load_tokenizer(path).around()[1] == [3]


@pytest.mark.parametrize("name", ["minimind_tokenizer", "qwen3_tokenizer", "chatglm3_tokenizer", "stories260K"])
def test_real_tokenizers_are_read_without_a_word(shared: Path, capsys: pytest.CaptureFixture[str], name: str):
    assert told(shared / name, capsys) == []
