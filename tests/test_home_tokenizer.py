"""A tokenizer as transformers' users have it: the same words give the same, or say what to write instead."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pellucid
from pellucid import AutoTokenizer
from pellucid.base.errors import TemplateError, TokenizerError
from pellucid.text import encoding, familiar

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Hi"}]
CONVERSATIONS = [MESSAGES, [{"role": "user", "content": "Hello you"}]]
PREFILLED = [*MESSAGES, {"role": "assistant", "content": "He"}]

CALLS = (
    "tokenizer('Once upon a time')",
    "tokenizer('Once upon a time', return_tensors='pt')",
    "tokenizer('Once upon a time', return_tensors='np')",
    "tokenizer(['Once', 'Once upon a'], padding=True, return_tensors='pt')",
    "tokenizer(['Once', 'Once upon a'], padding='max_length', max_length=12)",
    "tokenizer(['Once', 'Once upon a'], padding=True, padding_side='left')",
    "tokenizer(['Once', 'Once upon a'], padding=True, pad_to_multiple_of=8)",
    "tokenizer('Once upon a time', truncation=True, max_length=3)",
    "tokenizer('Once upon a time', return_offsets_mapping=True)",
    "tokenizer('Once upon a time', add_special_tokens=False)",
    "tokenizer('Once upon a time', return_attention_mask=False)",
    "tokenizer('Once upon a time', return_token_type_ids=True)",
    "tokenizer('Once upon a time', return_special_tokens_mask=True)",
    "tokenizer(['Once', 'upon a'], return_special_tokens_mask=True, padding=True)",
    "tokenizer('Once upon a time', return_length=True)",
    "tokenizer(['Once', 'Once upon'], return_length=True)",
    "tokenizer('Once', text_target='upon')",
    "tokenizer('Once', verbose=False)",
    "tokenizer(text='Once')",
    "tokenizer('Once upon', 'a time')",
    "tokenizer.encode('Once upon')",
    "tokenizer.encode('Once upon', return_tensors='pt')",
    "tokenizer.tokenize('Once upon')",
    "tokenizer.decode([1, 2, 3, 40])",
    "tokenizer.decode(torch.tensor([1, 2, 3, 40]), skip_special_tokens=True)",
    "tokenizer.decode(5)",
    "tokenizer.batch_decode(torch.tensor([[1, 2], [3, 4]]), skip_special_tokens=True)",
    "tokenizer.convert_tokens_to_ids('a')",
    "tokenizer.convert_tokens_to_ids(['a', 'b'])",
    "tokenizer.convert_ids_to_tokens([5, 6])",
    "tokenizer.convert_tokens_to_string(['a', 'b'])",
    "tokenizer.vocab_size",
    "len(tokenizer)",
    "tokenizer.get_vocab()['a']",
    "tokenizer.vocab['a']",
    "tokenizer.is_fast",
    "tokenizer.name_or_path",
    "tokenizer.model_max_length",
    "tokenizer.padding_side",
    "tokenizer.truncation_side",
    "tokenizer.eos_token, tokenizer.eos_token_id",
    "tokenizer.pad_token, tokenizer.pad_token_id",
    "tokenizer.bos_token_id, tokenizer.unk_token_id",
    "tokenizer.all_special_tokens, tokenizer.all_special_ids",
    "tokenizer.special_tokens_map",
    "tokenizer.extra_special_tokens",
    "tokenizer.added_tokens_decoder",
    "tokenizer.get_added_vocab()",
    "tokenizer.model_input_names",
    "tokenizer.clean_up_tokenization_spaces",
    "tokenizer.num_special_tokens_to_add()",
    "tokenizer.max_len_single_sentence",
    "tokenizer.get_special_tokens_mask([0, 5], already_has_special_tokens=True)",
    "tokenizer.pad([{'input_ids': [1, 2]}, {'input_ids': [3]}], return_tensors='pt')",
    "tokenizer('Once').input_ids",
    "tokenizer('Once upon', return_tensors='pt').to('cpu')",
    "tokenizer.add_tokens(['<new>']); len(tokenizer)",
    "tokenizer.add_special_tokens({'pad_token': '<pad>'}); tokenizer.pad_token_id",
    "tokenizer.pad_token = tokenizer.eos_token; tokenizer.pad_token_id",
    "tokenizer.padding_side = 'left'; tokenizer(['Once', 'Once upon a'], padding=True)",
)
CHATS = (
    "tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)",
    "tokenizer.apply_chat_template(messages, chat_template=template)",
    "tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False)",
    "tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, return_tensors='pt')",
    "tokenizer.apply_chat_template(conversations, chat_template=template, padding=True, return_tensors='pt')",
    "tokenizer.apply_chat_template(prefilled, chat_template=template, continue_final_message=True, tokenize=False)",
    "tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, enable_thinking=False)",
    "tokenizer.apply_chat_template(messages, chat_template=template, truncation=True, max_length=2)",
    "tokenizer.chat_template = template; tokenizer.apply_chat_template(conversation=messages, tokenize=False)",
    "tokenizer.get_chat_template(template)",
)
LOADING = (
    "use_fast=True",
    "padding_side='left'",
    "truncation_side='left'",
    "model_max_length=12",
    "eos_token='<|end|>'",
    "pad_token='<|pad|>'",
    "chat_template=template",
    "trust_remote_code=True",
    "local_files_only=True",
    "legacy=None",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizers") / "tiny"
    AutoTokenizer.from_pretrained("tiny").save_pretrained(path)
    (path / "config.json").write_text('{"model_type": "llama", "vocab_size": 4096}')
    return path


def result(tokenizer: Any, code: str) -> Any:
    """What a line of code gives, or the lines before the last leave."""
    known = {"tokenizer": tokenizer, "torch": torch, "messages": MESSAGES, "conversations": CONVERSATIONS}
    known |= {"prefilled": PREFILLED, "template": TEMPLATE}
    *before, last = code.split("; ")
    exec("\n".join(before), known)
    return plain(eval(last, known))


def plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "items"):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


@pytest.mark.habits("tokenizer", "{}", "works", table="tests/test_home_tokenizer.py:CALLS")
@pytest.mark.habits("chat", "{}", "works", table="tests/test_home_tokenizer.py:CHATS")
@pytest.mark.parametrize("code", [*CALLS, *CHATS])
def test_the_same_line_gives_what_transformers_gives(folder: Path, code: str) -> None:
    ours, theirs = (whose.AutoTokenizer.from_pretrained(folder) for whose in (pellucid, transformers))
    assert result(ours, code) == result(theirs, code)


@pytest.mark.habits(
    "tokenizer", "AutoTokenizer.from_pretrained(name, {})", "works", table="tests/test_home_tokenizer.py:LOADING"
)
@pytest.mark.parametrize("word", LOADING)
def test_a_tokenizer_is_opened_with_the_same_words(folder: Path, word: str) -> None:
    line = "; (tokenizer(['Once', 'Once upon a time'], padding=True, truncation=True, max_length=4),"
    line += " tokenizer.special_tokens_map, tokenizer.model_max_length, tokenizer.chat_template)"
    made = []
    for whose in (pellucid, transformers):
        known = {"open": whose.AutoTokenizer.from_pretrained, "folder": folder, "template": TEMPLATE}
        made.append(result(eval(f"open(folder, {word})", known), f"0{line}"))
    assert made[0] == made[1]


@pytest.mark.habit("tokenizer", "tokenizer.encode_plus(text)", "works")
@pytest.mark.habit("tokenizer", "tokenizer.batch_encode_plus(texts)", "works")
@pytest.mark.habit("tokenizer", "tokenizer.build_inputs_with_special_tokens(ids)", "works")
@pytest.mark.habit("tokenizer", "tokenizer.additional_special_tokens", "works")
def test_names_that_transformers_had_until_its_fifth_version(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, additional_special_tokens=["<x>"])
    assert tokenizer.encode_plus("Once") == tokenizer("Once")
    assert tokenizer.batch_encode_plus(["Once"]) == tokenizer(["Once"])
    assert tokenizer.build_inputs_with_special_tokens([5]) == [*tokenizer.around()[0], 5, *tokenizer.around()[1]]
    assert tokenizer.additional_special_tokens == ["<x>"]


@pytest.mark.habits("tokenizer", "tokenizer.{}", "pointer", table="src/pellucid/text/familiar.py:ELSEWHERE")
@pytest.mark.parametrize("name", familiar.ELSEWHERE)
def test_an_attribute_that_is_not_here_says_what_is(folder: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(AttributeError) as error:
        getattr(tokenizer, name)
    assert familiar.ELSEWHERE[name] in str(error.value)
    assert not hasattr(tokenizer, name)


@pytest.mark.habits(
    "tokenizer", "tokenizer(text, {}=…)", "pointer", table="src/pellucid/text/familiar.py:CALL_ELSEWHERE"
)
@pytest.mark.parametrize("name", familiar.CALL_ELSEWHERE)
def test_an_argument_that_is_not_here_says_what_is(folder: Path, name: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(TypeError) as error:
        tokenizer("Once", **{name: True})
    assert familiar.CALL_ELSEWHERE[name] in str(error.value)
    assert tokenizer("Once", **{name: None}) == tokenizer("Once")
    with pytest.raises(TypeError, match="did you mean 'truncation'"):
        tokenizer("Once", truncate=True)
    with pytest.raises(TypeError, match="did you mean 'padding_side'"):
        AutoTokenizer.from_pretrained(folder, pading_side="left")


@pytest.mark.habits(
    "tokenizer",
    "tokenizer(text).{}()",
    "pointer",
    table="src/pellucid/text/encoding.py:ELSEWHERE",
    note="`tokenizer.pieces(text)`, `return_offsets_mapping=True`, or `convert_ids_to_tokens(ids)`",
)
@pytest.mark.habit("tokenizer", "tokenizer(texts)[0]", "pointer", "encoding.input_ids[0]")
@pytest.mark.parametrize("name", encoding.ELSEWHERE)
def test_an_encoding_says_what_it_has_not(folder: Path, name: str) -> None:
    encoded: Any = AutoTokenizer.from_pretrained(folder)("Once upon")
    with pytest.raises(AttributeError) as error:
        getattr(encoded, name)
    assert encoding.ELSEWHERE[name] in str(error.value)
    with pytest.raises(KeyError, match="columns, not rows"):
        encoded[0]


@pytest.mark.habit("chat", "tokenizer.apply_chat_template('Hi')", "pointer", '[{"role": "user", "content": text}]')
@pytest.mark.habit("chat", "apply_chat_template without a template", "pointer", "chat_template=…, or a plain prompt")
def test_what_is_no_conversation_gets_a_word(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(TemplateError, match='"role": "user"'):
        tokenizer.apply_chat_template("Hi")  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match="has no chat template"):
        tokenizer.apply_chat_template(MESSAGES)
    with pytest.raises(TokenizerError, match="pass them directly"):
        tokenizer.apply_chat_template(MESSAGES, chat_template=TEMPLATE, tokenizer_kwargs={"padding": True})


@pytest.mark.habit("tokenizer", "copy.deepcopy(tokenizer), pickle.dumps(tokenizer)", "works")
def test_a_tokenizer_is_copied_and_pickled(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<|pad|>")
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again(["Once", "Once upon"], padding=True) == tokenizer(["Once", "Once upon"], padding=True)
        assert again.name_or_path == str(folder)


@pytest.mark.habit("saving", "tokenizer.save_pretrained(folder)", "works")
def test_a_tokenizer_that_is_saved_opens_with_transformers(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", pad_token="<|pad|>")
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["Once", "Once upon a time"]
    assert theirs(texts, padding=True)["input_ids"] == tokenizer(texts, padding=True)["input_ids"]
