"""Grammars: what the masks allow is what the schema, expression or grammar says, over every kind of vocabulary."""

from __future__ import annotations

import gc
import itertools
import json
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from pellucid.base.errors import RequestError, UnsupportedError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.grammar.matcher import GrammarConstraint, constrain
from pellucid.grammar.source import Grammar, grammar_of, regex_grammar, schema_grammar
from pellucid.grammar.vocabulary import vocabulary_of
from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.word_piece import word_piece
from pellucid.text.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "says": {"enum": ["yes", "no", "你好", 'a "quote"']},
    },
    "required": ["name", "age", "says"],
    "additionalProperties": False,
}
VOCABULARIES: dict[str, Callable[[Path], Tokenizer]] = {
    "byte-level bpe": lambda data: load_tokenizer(data / "minimind_tokenizer"),
    "sentencepiece": lambda data: load_tokenizer(data / "llama2_tokenizer" / "tokenizer.model"),
    "chatglm": lambda data: load_tokenizer(data / "chatglm3_tokenizer"),
    "llama2.c": lambda data: load_tokenizer(data / "stories260K" / "tok512.bin"),
    "gguf spm": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf").metadata),
    "gguf bpe": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf").metadata),
}
PADDING = 7  # columns of the logits that are no tokens


@pytest.fixture(scope="module", params=VOCABULARIES)
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    return VOCABULARIES[request.param](shared)


@pytest.fixture(scope="module")
def minimind(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "minimind_tokenizer")


def constraint_of(grammar: Grammar, tokenizer: Tokenizer, ends: tuple[int, ...] | None = None) -> GrammarConstraint:
    ends = tuple(tokenizer.stop_token_ids) if ends is None else ends
    return constrain(grammar, tokenizer, len(tokenizer) + PADDING, ends)


def draw(constraint: GrammarConstraint, tokenizer: Tokenizer, seed: int, most: int = 400) -> str:
    """A text drawn from the masks alone, each allowed token as probable as any other."""
    random, matcher, ids = np.random.default_rng(seed), constraint.start(), []
    ends = tokenizer.stop_token_ids
    while not matcher.finished and len(ids) < most:
        mask = matcher.mask()
        assert mask.shape == (len(tokenizer) + PADDING,)
        assert not mask[len(tokenizer) :].any()
        token = int(random.choice(np.flatnonzero(mask)))
        matcher.accept(token)
        if token in ends:
            break
        ids.append(token)
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids=tokenizer.encode("Say:"))
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


def accepts(constraint: GrammarConstraint, tokenizer: Tokenizer, text: str) -> bool:
    matcher = constraint.start()
    ids = vocabulary_of(tokenizer, len(tokenizer) + PADDING).cut(text.encode())
    for token in ids:
        if not matcher.mask()[token]:
            return False
        matcher.accept(token)
    return bool(matcher.mask()[tokenizer.stop_token_ids].all())


def test_what_the_masks_allow_is_json_of_the_schema_in_every_vocabulary(tokenizer: Tokenizer):
    constraint = constraint_of(schema_grammar(PERSON), tokenizer)
    for seed in range(6):
        jsonschema_rs.validate(PERSON, json.loads(draw(constraint, tokenizer, seed)))


def test_what_is_json_of_the_schema_the_masks_allow(tokenizer: Tokenizer):
    constraint = constraint_of(schema_grammar(PERSON), tokenizer)
    one = {"name": "Zoë 🙂", "age": 7, "says": "你好"}
    layouts: list[dict[str, Any]] = [{}, {"indent": 4}, {"separators": (",", ":")}]
    for layout in layouts:
        text = json.dumps(one, ensure_ascii=False, **layout)
        assert accepts(constraint, tokenizer, text), text
    for wrong in ({**one, "age": 151}, {**one, "says": "maybe"}, {**one, "more": 1}, {"name": "Zoë"}):
        assert not accepts(constraint, tokenizer, json.dumps(wrong)), wrong


def test_a_word_piece_vocabulary_writes_what_its_pieces_can():
    pieces = ["[UNK]", "[CLS]", "[SEP]", "yes", "no", "##no", "##body", "0"]
    tokenizer = word_piece({piece: place for place, piece in enumerate(pieces)}, {"eos_token": "[SEP]"}, "test")
    constraint = constraint_of(regex_grammar("( no(body)?| yes)+"), tokenizer)
    assert {draw(constraint, tokenizer, seed, 3).strip().split(" ")[0] for seed in range(40)} >= {"yes", "no", "nobody"}


def test_a_text_that_no_token_can_write_is_an_error_that_says_so():
    tokenizer = word_piece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "yes": 3}, {"eos_token": "[SEP]"}, "test")
    with pytest.raises(RequestError, match="no token of this vocabulary"):
        constraint_of(schema_grammar(PERSON), tokenizer).start().mask()


def test_an_expression_is_matched_whole(minimind: Tokenizer):
    constraint = constraint_of(regex_grammar(r"[A-C]{2}-\d{3}"), minimind)
    for seed in range(5):
        assert re.fullmatch(r"[A-C]{2}-[0-9]{3}", draw(constraint, minimind, seed))
    assert accepts(constraint, minimind, "AB-123")
    assert not accepts(constraint, minimind, "AB-12")
    assert not accepts(constraint, minimind, "AB-1234")


@pytest.mark.parametrize(
    "grammar", ['start: "a" b+\nb: "b" | "(" b ")"', 'root ::= "a" b+\nb ::= "b" | "(" b ")"'], ids=["lark", "gbnf"]
)
def test_a_grammar_in_lark_or_gbnf_is_followed(minimind: Tokenizer, grammar: str):
    constraint = constraint_of(grammar_of(grammar), minimind)
    assert accepts(constraint, minimind, "abb((b))")
    assert not accepts(constraint, minimind, "abb((b)")
    assert not accepts(constraint, minimind, "ba")


def test_end_tokens_are_allowed_exactly_where_the_grammar_is_complete(minimind: Tokenizer):
    a, b = (minimind.convert_tokens_to_ids(token) for token in ("a", "b"))
    ends = (minimind.convert_tokens_to_ids("<|im_end|>"), b)  # one special, one of the text
    matcher = constraint_of(regex_grammar("a(ba)*"), minimind, ends).start()
    assert not matcher.mask()[list(ends)].any()
    matcher.accept(a)
    assert matcher.mask()[list(ends)].all()
    assert not matcher.finished
    matcher.accept(b)  # an end token ends, even where it could have been text
    assert matcher.finished
    with pytest.raises(RequestError, match="has ended"):
        matcher.accept(a)


def test_any_special_token_can_be_a_tag(minimind: Tokenizer):
    for token in sorted(minimind.special_ids)[:3]:
        constraint = constraint_of(Grammar(f'start: <[{token}]> "a" <[{token}]>'), minimind, ())
        matcher = constraint.start()
        for expected in (token, minimind.convert_tokens_to_ids("a"), token):
            assert np.flatnonzero(matcher.mask()).tolist() == [expected]
            matcher.accept(expected)
        assert matcher.finished


def test_special_tokens_that_are_no_end_are_never_allowed(minimind: Tokenizer):
    mask = constraint_of(regex_grammar(r"(.|\n)*"), minimind).start().mask()
    ends = set(minimind.stop_token_ids)
    assert {token for token in minimind.special_ids if mask[token]} == ends
    assert mask.sum() > 0.9 * len(minimind)


def test_guesses_are_judged_without_moving(minimind: Tokenizer):
    matcher = constraint_of(schema_grammar({"enum": ["abc", "abd"]}), minimind).start()
    right, wrong = (vocabulary_of(minimind, len(minimind) + PADDING).cut(text) for text in (b'"abd"', b'"abx"'))
    before = matcher.mask().copy()
    assert matcher.valid_prefix(right) == len(right)
    assert matcher.valid_prefix([*right, minimind.stop_token_ids[0]]) == len(right)
    assert 0 < matcher.valid_prefix(wrong) < len(wrong)
    assert matcher.valid_prefix([10**9]) == 0
    assert (matcher.mask() == before).all()
    for token in right:
        matcher.accept(token)
    assert matcher.finished


def test_answers_of_one_constraint_do_not_know_of_each_other(minimind: Tokenizer):
    constraint = constraint_of(schema_grammar(PERSON), minimind)
    first, second = constraint.start(), constraint.start()
    before = second.mask().copy()
    first.accept(int(np.flatnonzero(first.mask())[0]))
    assert (second.mask() == before).all()


def test_whitespace_is_bounded(minimind: Tokenizer):
    constraint = constraint_of(schema_grammar({"type": "object"}), minimind)
    assert accepts(constraint, minimind, '{\n  "a": 1}')
    assert not accepts(constraint, minimind, "{" + 200 * " " + '"a": 1}')


REFUSED: list[tuple[Any, str]] = [
    ({"not": {"type": "string"}}, "cannot be held to: not"),
    ({"type": "array", "uniqueItems": True, "items": {}}, "uniqueItems"),
    ({"type": "array", "contains": {"type": "integer"}}, "contains"),
    ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if, then"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"$ref": "https://example.com/person.json"}, "not present"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    ({"type": "string", "format": "no-such"}, "Unknown format"),
    ({"type": "animal"}, "Invalid type"),
    ({"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
    ({"x-guidance": {"lenient": True}, "not": {}}, "cannot be held to: not"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    (False, "false"),
    ("{", "no JSON"),
    ([], "no JSON schema"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_schema_that_an_answer_cannot_be_held_to_is_refused_with_its_reason(schema: Any, said: str):
    with pytest.raises(RequestError, match=said):
        schema_grammar(schema)


def test_a_count_may_be_written_as_a_float(minimind: Tokenizer):
    constraint = constraint_of(schema_grammar({"type": "array", "items": {"const": 1}, "maxItems": 2.0}), minimind)
    assert accepts(constraint, minimind, "[1,1]")
    assert not accepts(constraint, minimind, "[1,1,1]")


def test_a_grammar_that_comes_again_is_ready(minimind: Tokenizer):
    first = constraint_of(schema_grammar(PERSON), minimind)
    assert constraint_of(schema_grammar(dict(PERSON)), minimind) is first
    assert constraint_of(schema_grammar(PERSON), minimind, ends=(7,)) is not first
    for number in range(40):
        constraint_of(schema_grammar({"const": number}), minimind)
    assert constraint_of(schema_grammar(PERSON), minimind) is not first


def test_what_is_known_of_a_tokenizer_ends_with_it(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    vocabulary = weakref.ref(vocabulary_of(tokenizer, len(tokenizer)))
    constrain(schema_grammar(PERSON), tokenizer, len(tokenizer), ())
    assert vocabulary() is vocabulary_of(tokenizer, len(tokenizer))
    del tokenizer
    gc.collect()
    assert vocabulary() is None


# --- the JSON Schema test suite ------------------------------------------------------------------------------------


def orders(value: Any, most: int = 24) -> Iterator[Any]:
    """The value with the keys of its objects in every order, up to so many: a grammar has them in the schema's."""
    if isinstance(value, dict):
        several = (
            dict(zip(names, inner, strict=True))
            for names in itertools.permutations(value)
            for inner in itertools.product(*(list(orders(value[name], 6)) for name in names))
        )
    elif isinstance(value, list):
        several = (list(inner) for inner in itertools.product(*(list(orders(one, 6)) for one in value)))
    else:
        several = iter([value])
    return itertools.islice(several, most)


def test_the_json_schema_test_suite(shared: Path, minimind: Tokenizer):
    """No invalid instance is allowed; valid ones are, but for 1.0 where the schema says 1, and strings of a format:
    the suite has formats as remarks, here they are held to. What is not followed is refused.
    """
    suite = shared / "JSON-Schema-Test-Suite" / "tests" / "draft2020-12"
    if not suite.is_dir():
        pytest.skip("put a checkout of json-schema-org/JSON-Schema-Test-Suite into ../shared/data for this")
    refused, counts = 0, {(valid, got): 0 for valid in (True, False) for got in (True, False)}
    for path in sorted(suite.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            try:
                constraint = constraint_of(schema_grammar(group["schema"]), minimind)
            except RequestError:
                refused += 1
                continue
            for case in group["tests"]:
                texts = (json.dumps(value, ensure_ascii=False) for value in orders(case["data"]))
                got = any(accepts(constraint, minimind, text) for text in texts)
                assert case["valid"] or not got, (path.stem, group["description"], case["description"])
                counts[case["valid"], got] += 1
    assert counts[False, True] == 0
    assert counts[True, False] <= 0.06 * (counts[True, True] + counts[True, False])
    assert refused < 230
    assert counts[False, False] > 200


def test_a_pydantic_model_and_true_are_schemas(minimind: Tokenizer):
    from pydantic import BaseModel

    class Pair(BaseModel):
        left: int
        right: bool

    assert accepts(constraint_of(schema_grammar(Pair), minimind), minimind, '{"left": 3, "right": true}')
    assert accepts(constraint_of(schema_grammar(True), minimind), minimind, '[1, {"a": null}]')


@pytest.mark.parametrize("grammar", ["(a", "a(?=b)"])
def test_an_expression_that_is_none_is_refused(grammar: str):
    with pytest.raises(RequestError, match="the regex cannot be used"):
        regex_grammar(grammar)


@pytest.mark.parametrize("grammar", ["start: nowhere", "root ::= (", "begin: /a/"])
def test_a_grammar_that_is_none_is_refused(grammar: str):
    with pytest.raises(RequestError, match="the grammar"):
        grammar_of(grammar)


def test_a_tokenizer_without_token_bytes_is_refused():
    import tokenizers

    from pellucid.text.readers.tokenizer_json import JsonTokenizer

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    backend.decoder = tokenizers.decoders.CTC()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UnsupportedError, match="no token bytes"):
        vocabulary_of(JsonTokenizer(backend, {}, "test"), 1)
