"""Folders to tokenizers and back: what is read, what beats what, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pellucid.base.errors import ModelNotFoundError, TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.text.load import TOKENIZER_CONFIG_FILE, get_tokenizer_config, load_tokenizer
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.ranks import ranks_to_bpe, read_ranks
from pellucid.text.tokenizer import Tokenizer

TEXTS = ["Hello world", " 大模型令人头秃 x", "龘 <|im_start|>a<|im_end|> </s>", "don't 123\n\n  y"]


def copy_of(source: Path, tmp_path: Path, **config: Any) -> Path:
    """A folder's files, with changes to its tokenizer_config.json; None removes a key."""
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    changed = get_tokenizer_config(tmp_path) | config
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps({key: value for key, value in changed.items() if value is not None})
    )
    return tmp_path


def gpt2_folder(shared: Path, tmp_path: Path) -> Path:
    shutil.copy(shared / "gpt2_bpe" / "gpt2_vocab.cs336.json", tmp_path / "vocab.json")
    shutil.copy(shared / "gpt2_bpe" / "gpt2_merges.cs336.txt", tmp_path / "merges.txt")
    return tmp_path


# --- importing -------------------------------------------------------------------------------------------------------


def test_importing_the_tokenizer_imports_nothing_heavy():
    heavy = "('tokenizers', 'sentencepiece', 'jinja2', 'torch', 'transformers', 'numpy')"
    code = f"import sys, pellucid.text.tokenizer, pellucid.text.load; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# --- which files are read --------------------------------------------------------------------------------------------


def test_get_tokenizer_config_reads_folder_or_file(shared: Path, tmp_path: Path):
    folder = shared / "chatglm3_tokenizer"
    assert get_tokenizer_config(folder)["tokenizer_class"] == "ChatGLMTokenizer"
    assert get_tokenizer_config(str(folder / TOKENIZER_CONFIG_FILE)) == get_tokenizer_config(folder)
    assert get_tokenizer_config(tmp_path) == {}


def test_a_file_can_be_named_alone(shared: Path):
    assert load_tokenizer(shared / "minimind_tokenizer" / "tokenizer.json").eos_token == "<|im_end|>"
    assert load_tokenizer(str(shared / "llama2_tokenizer" / "tokenizer.model")).bos_token == "<s>"
    assert load_tokenizer(shared / "stories260K").vocab_size == 512  # tok512.bin is the only one there


@pytest.mark.parametrize("kind", [None, "GPT2Tokenizer"])
def test_vocab_and_merges_are_gpt2(shared: Path, tmp_path: Path, kind: str | None):
    folder = copy_of(
        gpt2_folder(shared, tmp_path / "source" if (tmp_path / "source").mkdir() is None else tmp_path), tmp_path / "f"
    )
    if kind:
        (folder / TOKENIZER_CONFIG_FILE).write_text(json.dumps({"tokenizer_class": kind}))
    else:
        (folder / TOKENIZER_CONFIG_FILE).unlink()
    tokenizer = load_tokenizer(folder)
    texts = (
        (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    )
    expected = [
        [int(i) for i in line.split()]
        for line in (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")
    ]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == 50256


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "GPTNeoXTokenizer", "CohereTokenizer", "CodeGenTokenizer"])
def test_vocab_and_merges_are_cut_as_their_class_cuts(shared: Path, tmp_path: Path, kind: str):
    gpt2_folder(shared, tmp_path)
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text(json.dumps({"tokenizer_class": kind}))
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == kind
    texts = (
        (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    )
    for text in [*texts, "e\u0301 12345 I'LL\n\nx", (shared / "text_misc" / "wizard_of_oz.txt").read_text()[:20_000]]:
        assert ours.encode(text) == theirs(text)["input_ids"], text[:60]


def test_vocab_and_merges_of_another_class_are_not_guessed(shared: Path, tmp_path: Path):
    gpt2_folder(shared, tmp_path)
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text('{"tokenizer_class": "CLIPTokenizer"}')
    with pytest.raises(TokenizerError, match="CLIPTokenizer"):
        load_tokenizer(tmp_path)


def test_tiktoken_s_ranks_give_gpt_2_s_ids(shared: Path):
    from pellucid.text.readers.byte_level_bpe import build_bpe
    from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS

    vocab, merges = ranks_to_bpe(read_ranks(shared / "gpt2_bpe" / "gpt2.tiktoken"))
    backend = build_bpe(vocab, merges, PRE_TOKENIZERS["gpt-2"], "test")
    texts = (
        (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    )
    expected = [
        [int(i) for i in line.split()]
        for line in (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")
    ]
    assert [backend.encode(text).ids for text in texts] == expected


# --- what beats what -------------------------------------------------------------------------------------------------


def test_template_files_beat_the_config(shared: Path, tmp_path: Path):
    folder = copy_of(shared / "minimind_tokenizer", tmp_path, chat_template="from the config")
    assert load_tokenizer(folder).chat_template == "from the config"
    (folder / "chat_template.jinja").write_text("from the file")
    assert (
        load_tokenizer(folder).chat_template == "from the file" == AutoTokenizer.from_pretrained(folder).chat_template
    )
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    expected = {"default": "from the file", "tool_use": "tools"}
    assert load_tokenizer(folder).chat_template == expected == AutoTokenizer.from_pretrained(folder).chat_template


def test_a_list_of_named_templates_is_a_dict(shared: Path, tmp_path: Path):
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    folder = copy_of(shared / "minimind_tokenizer", tmp_path, chat_template=named)
    assert (
        load_tokenizer(folder).chat_template
        == {"default": "a", "rag": "b"}
        == AutoTokenizer.from_pretrained(folder).chat_template
    )


def test_legacy_files_name_special_and_added_tokens(shared: Path, tmp_path: Path):
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens", "added_tokens_decoder")
    folder = copy_of(shared / "minimind_tokenizer", tmp_path, **dict.fromkeys(names))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<|im_start|>"}, "pad_token": "<pad>"})
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 6400, "<extra>": 6401}))
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert (ours.pad_token_id, len(ours)) == (theirs.pad_token_id, len(theirs)) == (6400, 6402)
    text = "a<pad><extra><|im_start|>"
    assert ours(text).input_ids == theirs(text)["input_ids"]
    assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == "a<extra>"


def test_the_config_s_added_tokens_are_special_as_in_transformers(shared: Path, tmp_path: Path):
    folder = copy_of(shared / "minimind_tokenizer", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    plain = next(token for token in content["added_tokens"] if not token["special"])
    changed = {
        str(plain["id"]): {"content": plain["content"], "special": True},
        "6400": {"content": "<late>", "special": False},
    }
    (folder / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps({"added_tokens_decoder": changed, "eos_token": "<|im_end|>"})
    )
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    ids = ours.encode(f"a{plain['content']}<late>")
    assert ids == theirs.encode(f"a{plain['content']}<late>")
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True) == "a<late>"


def test_naming_a_token_keeps_its_flags(tmp_path: Path):
    backend = _small()
    backend.add_special_tokens([tokenizers.AddedToken("<mask>", special=True, lstrip=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps({"mask_token": "<mask>", "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("ab  <mask>") == theirs.encode("ab  <mask>") == [2, 3]


def test_the_generation_config_says_what_ends_an_answer(shared: Path, tmp_path: Path):
    folder = copy_of(shared / "minimind_tokenizer", tmp_path)
    assert load_tokenizer(folder).stop_token_ids == [2]
    for ends, expected in [([2, 0], [2, 0]), (5, [5]), ("x", [2])]:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        assert load_tokenizer(folder).stop_token_ids == expected


# --- what is written -------------------------------------------------------------------------------------------------

SAVED = {
    "tokenizer.json": lambda data: load_tokenizer(data / "minimind_tokenizer"),
    "sentencepiece": lambda data: load_tokenizer(data / "llama2_tokenizer" / "tokenizer.model"),
    "chatglm": lambda data: load_tokenizer(data / "chatglm3_tokenizer"),
    "llama2.c": lambda data: load_tokenizer(data / "stories260K" / "tok512.bin"),
    "gguf spm": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf").metadata),
    "gguf bpe": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf").metadata),
}


def assert_equal(one: Tokenizer, other: Tokenizer) -> None:
    assert type(one) is type(other)
    for text in TEXTS:
        ids = one(text).input_ids
        assert dict(one(text, return_offsets_mapping=True)) == dict(other(text, return_offsets_mapping=True))
        assert one.decode(ids) == other.decode(ids)
        assert one.decode(ids, skip_special_tokens=True) == other.decode(ids, skip_special_tokens=True)
    for name in (
        "special_tokens_map",
        "all_special_tokens",
        "padding_side",
        "truncation_side",
        "model_max_length",
        "chat_template",
    ):
        assert getattr(one, name) == getattr(other, name), name
    assert one.get_vocab() == other.get_vocab()
    assert one.added_tokens_decoder == other.added_tokens_decoder
    assert one.stop_token_ids == other.stop_token_ids


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("changed", [False, True], ids=["as loaded", "changed"])
def test_what_is_saved_loads_back_equal(shared: Path, tmp_path: Path, kind: str, changed: bool):
    tokenizer = SAVED[kind](shared)
    if changed:
        tokenizer.add_tokens(["<new>"])
        tokenizer.add_special_tokens(
            {"pad_token": "<|pad|>", "additional_special_tokens": ["<x>"]} if kind != "chatglm" else {}
        )
        tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = "left", "left", 77
        tokenizer.chat_template = {"default": "你好 {{ messages }}", "tool_use": "x"}
    paths = tokenizer.save_pretrained(tmp_path / "saved")
    assert all(Path(path).is_file() for path in paths)
    assert not list((tmp_path / "saved").glob(".*"))
    again = load_tokenizer(tmp_path / "saved")
    assert_equal(tokenizer, again)
    again.save_pretrained(tmp_path / "twice")
    assert_equal(again, load_tokenizer(tmp_path / "twice"))


@pytest.mark.parametrize("kind", ["tokenizer.json", "gguf bpe", "gguf spm", "llama2.c"])
def test_transformers_reads_what_is_saved(shared: Path, tmp_path: Path, kind: str):
    tokenizer = SAVED[kind](shared)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:1] if "json" not in kind else TEXTS:
        ids = tokenizer(text).input_ids
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    assert theirs.special_tokens_map == tokenizer.special_tokens_map
    assert theirs.chat_template == tokenizer.chat_template


def test_saving_beside_another_tokenizer_is_refused(shared: Path, tmp_path: Path):
    load_tokenizer(shared / "minimind_tokenizer").save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json, chat_template\.jinja of another tokenizer"):
        load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model").save_pretrained(tmp_path)
    load_tokenizer(tmp_path).save_pretrained(tmp_path)  # in place is fine


def test_a_template_s_name_cannot_leave_the_folder(shared: Path, tmp_path: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    for name in ("../../evil", "a/b", "", ".hidden"):
        tokenizer.chat_template = {"default": "x", name: "y"}
        with pytest.raises(TokenizerError, match="cannot be a file's"):
            tokenizer.save_pretrained(tmp_path / "deep" / "deeper")
    assert not list(tmp_path.rglob("*evil*"))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(shared: Path, tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        load_tokenizer(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match="there is no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="not a tokenizer's file"):
        load_tokenizer(shared / "chatglm3_tokenizer" / "config.json")
    for name in ("tok1.bin", "tok2.bin"):
        shutil.copy(shared / "stories260K" / "tok512.bin", tmp_path / name)
    with pytest.raises(TokenizerError, match=r"several tokenizers.*tok1.bin, tok2.bin"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "", "not a tokenizer.json"),
        ("tokenizer.json", '{"version": "1.0"', "not a tokenizer.json"),
        ("tokenizer.json", "[]", "not a tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe\x00", "not a tokenizer.json"),
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", b"\xff", "not UTF-8"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template is neither"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "a"}]}', "chat_template is neither"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": "y"}}', "must map ids to tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": 7}}', "neither a string nor an object"),
        ("tokenizer_config.json", '{"bos_token": 7}', "neither a string nor an object"),
        ("tokenizer_config.json", '{"model_max_length": "many"}', "must be a positive number"),
        ("tokenizer_config.json", '{"model_max_length": Infinity}', "must be a positive number"),
        ("tokenizer_config.json", '{"padding_side": "up"}', "padding_side is unknown"),
        ("special_tokens_map.json", '{"bos_token": []}', "neither a string nor an object"),
        ("added_tokens.json", '{"a": "b"}', "must map to ids"),
        ("generation_config.json", "nonsense", "not valid JSON"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(
    shared: Path, tmp_path: Path, name: str, content: str | bytes, message: str
):
    shutil.copy(shared / "minimind_tokenizer" / "tokenizer.json", tmp_path)
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("[]", "", "expected a JSON object"),
        ('{"a": "0"}', "", "not a vocabulary"),
        ('{"a": 0, "b": 1}', "a b", "needs the token 'ab'"),
        ('{"a": 0, "b": 1}', "a", "two tokens"),
        ('{"a": 0, "b": 1}', "a b c", "line 1"),
        ('{"a": 0}', None, "merges.txt is missing"),
    ],
)
def test_broken_vocabularies_are_refused(tmp_path: Path, vocab: str, merges: str | None, message: str):
    (tmp_path / "vocab.json").write_text(vocab)
    if merges is not None:
        (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


KEYS = [
    "bos_token", "image_token", "additional_special_tokens", "extra_special_tokens", "padding_side", "model_max_length",
    "chat_template", "added_tokens_decoder", "model_input_names", "tokenizer_class", "add_bos_token", "legacy",
    "stop_token_ids", "clean_up_tokenization_spaces", "encode_special_tokens", "add_eos_token", "add_prefix_space",
    "split_special_tokens", "max_len", "model_specific_special_tokens", "sp_model_kwargs", "errors",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "nobody_knows",
]  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["content", "7", "name", "template"]), inner, max_size=2),
    ),
    max_leaves=4,
)


@pytest.mark.parametrize(
    "source",
    ["minimind_tokenizer/tokenizer.json", "llama2_tokenizer/tokenizer.model", "chatglm3_tokenizer/tokenizer.model"],
)
@settings(max_examples=50, deadline=None)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_config_is_an_error_or_a_tokenizer(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, source: str, key: str, value: Any
):
    folder = tmp_path_factory.getbasetemp() / source.replace("/", "-")
    if not folder.exists():
        folder.mkdir()
        (folder / Path(source).name).symlink_to(shared / source)
    config = {"tokenizer_class": "ChatGLMTokenizer"} if "chatglm" in source else {}
    (folder / TOKENIZER_CONFIG_FILE).write_text(json.dumps({**config, key: value}))
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer("a 你", max_length=3, truncation=True)
        assert isinstance(repr(tokenizer), str)
    except TokenizerError:
        return


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_tokenizer_json_is_an_error_or_a_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    """Values of a small tokenizer.json replaced at random; the library panics on some."""
    content = json.loads(_small().to_str())
    places = [(content, key) for key in content] + [(content["model"], key) for key in content["model"]]
    owner, key = data.draw(st.sampled_from(places))
    owner[key] = data.draw(
        st.one_of(
            st.none(),
            st.integers(-2, 5),
            st.text(max_size=3),
            st.just([]),
            st.just({}),
            st.just([["a", "b"], ["b", "b"]]),
        )
    )
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_text(json.dumps(content))
    try:
        load_tokenizer(path).encode("ab")
    except TokenizerError:
        return


def _small() -> tokenizers.Tokenizer:
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])
    return tokenizers.Tokenizer(model)
