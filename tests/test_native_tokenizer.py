"""The tokenizers inside run.c: ids as llama.cpp, sentencepiece and tokenizers give them; hostile vocabularies end
clearly.
"""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.base.array import Array
from pellucid.base.errors import TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.config import weight_shapes
from pellucid.families import llama
from pellucid.native import vocabulary
from pellucid.native.build import compiler
from pellucid.native.two_files import write_two_files
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import read_model
from pellucid.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(
    compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"
)
SANITIZED = (
    *("cc", "-std=gnu11", "-O0", "-DPLAIN_C", "-Wall", "-Wextra", "-Werror", "-pthread", "-g"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def program_of(tokenizer: Tokenizer, folder: Path) -> Path:
    """A sanitized program with a tokenizer around a model too small to matter."""
    words = vocabulary.of(tokenizer)
    assert isinstance(words, vocabulary.Vocabulary), words
    config = llama.config(
        llama.TINY | {"vocab_size": words.constants["VOCAB_TOKENS"], "hidden_size": 16, "num_hidden_layers": 1}
    )
    weights = {name: Array.from_numpy(np.ones(shape, np.float32)) for name, shape in weight_shapes(config).items()}
    assert write_two_files(config, weights, folder, words) == "the tokenizer is inside"
    done = subprocess.run([*SANITIZED, "run.c", "-o", "run", "-lm"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def run(program: Path, text: str, parameters: str = "parameters") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, program.parent / parameters, text, "--tokenize"], capture_output=True, text=True, timeout=120
    )


def ids_of(program: Path, text: str) -> list[int]:
    done = run(program, text)
    assert (done.returncode, done.stderr) == (0, ""), text
    return [int(token) for token in done.stdout.split()]


@cache
def of_gguf(path: Path, folder: Path, pre: str | None = None) -> tuple[Tokenizer, Path]:
    """The tokenizer of a GGUF file, with a pre-tokenizer of another name if asked, and the program with it inside."""
    metadata = dict(GGUFFile(path).metadata) | ({"tokenizer.ggml.pre": pre} if pre else {})
    tokenizer = tokenizer_from_gguf(metadata)
    return tokenizer, program_of(tokenizer, folder / f"{path.stem}-{pre}")


def strings(shared: Path) -> list[str]:
    """The 47 strings of llama.cpp's vocabulary tests."""
    texts = (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split(SEPARATOR)
    assert len(texts) == 47
    return texts


MORE = (
    *(
        "aBC DeF gHI",
        "HELLOWorld's O'CLOCK I'LL it'S",
        "ÀÉîÕ ñandú ǅungla",
        "a/b//c\n/\n d",
        "e\u0301A\u0301BC\u0301d",
        "\u0301AB",
        "ʰAʰb ªº",
    ),
    *(
        "x\u200dy \u00adz",
        "1234567 ١٢٣ Ⅷ½",
        "　全角　ＡＢＣ１２３",
        "don't  'stop\r\n\r\n  now",
        "漢字かなカナ한국어",
        "\t\ttabs \t x",
    ),
    *("…—“quoted” ©®™", "#$%&/=?¡¿!!", "👩\u200d👩\u200d👧 family"),
)


def samples(shared: Path, count: int = 40) -> list[str]:
    """Stretches of real texts, English and Chinese, cut anywhere."""
    draw, found = random.Random(0), []
    for pattern in (WIZARD, CHINESE, "text_shakespeare/[!S]*.txt"):
        text = next(iter(sorted(shared.glob(pattern)))).read_text(encoding="utf-8")
        found += [
            text[start : start + draw.randrange(400)]
            for start in (draw.randrange(len(text)) for _ in range(count // 3))
        ]
    return [text for text in found if text]


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
def test_the_ids_are_llama_cpps_on_its_47_strings(name: str, shared: Path, folder: Path) -> None:
    file = shared / "gguf_vocabs" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{file}.inp").read_bytes().decode().split(SEPARATOR)
    expected = Path(f"{file}.out").read_text().split("\n")
    tokenizer, program = of_gguf(file, folder)
    prefix = tokenizer.encode("")
    for text, ids in zip(texts, expected, strict=True):
        assert ids_of(program, text) == prefix + [int(token) for token in ids.split()], text


def some(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """The others are built for `make test-all`: each program takes some seconds."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("pre", some(("smollm", "llama-bpe", "stablelm2", "tekken", "gpt-4o"), ("tekken",)))
def test_every_pattern_cuts_as_the_tokenizers_library_does(pre: str, shared: Path, folder: Path) -> None:
    """GPT-2's merges under other patterns. (``gpt-2`` itself is above, ``qwen2`` with its normalization below.)"""
    tokenizer, program = of_gguf(shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf", folder, pre)
    for text in [*strings(shared), *MORE, *samples(shared, 12)]:
        assert ids_of(program, text) == tokenizer.encode(text), text


def test_qwens_ids_are_the_tokenizers_librarys(shared: Path, folder: Path) -> None:
    """The 47 strings, a special token and one that is printed; text that NFC might change is refused: composing is not
    in the program.
    """
    tokenizer = load_tokenizer(shared / "qwen3_tokenizer")
    program = program_of(tokenizer, folder / "qwen3")
    refused = 0
    for text in [
        *strings(shared),
        "<|im_start|>user\nIt's 12345 o'CLOCK\r\n\n  I'LL go<|im_end|>\n",
        "<think>\n\n</think>",
    ]:
        done = run(program, text)
        if done.returncode:
            assert "composing is not in here" in done.stderr
            refused += 1
        else:
            assert [int(token) for token in done.stdout.split()] == tokenizer.encode(text), text
    assert refused <= 3
    assert run(program, "e\u0301").returncode == 1


@pytest.mark.parametrize("name", some(("llama2_tokenizer", "chatglm3_tokenizer"), ("chatglm3_tokenizer",)))
def test_a_sentencepiece_model_gives_its_own_ids_with_what_its_texts_begin_with(
    name: str, shared: Path, folder: Path
) -> None:
    tokenizer = load_tokenizer(shared / name)
    program = program_of(tokenizer, folder / name)
    for text in [
        *strings(shared),
        *MORE,
        *samples(shared),
        "<s>twice</s> [gMASK] <|user|>",
        "Using a Transformer network is simple",
    ]:
        assert ids_of(program, text) == tokenizer.encode(text), text


def trained(shared: Path, pattern: str, **settings: Any) -> bytes:
    """A SentencePiece model of a shared text, trained here."""
    import sentencepiece

    text = next(iter(sorted(shared.glob(pattern)))).read_text(encoding="utf-8")
    lines = [text[at : at + 500] for at in range(0, 200_000, 500)]
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(lines),
        model_writer=made,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **settings,
    )
    return made.getvalue()


SYMBOLS = ["<sep>", "ozm", "ozma", "①"]
WIZARD, CHINESE = "text_misc/*izard*", "text_chinese/[!S]*.txt"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "unigram": (WIZARD, {"model_type": "unigram", "vocab_size": 800, "byte_fallback": True}),
    "casefolded": (
        CHINESE,
        {
            "model_type": "unigram",
            "vocab_size": 3000,
            "character_coverage": 0.995,
            "normalization_rule_name": "nfkc_cf",
        },
    ),
    "identity": (
        WIZARD,
        {
            "model_type": "unigram",
            "vocab_size": 600,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
        },
    ),
    "symbols": (
        WIZARD,
        {"model_type": "unigram", "vocab_size": 600, "user_defined_symbols": SYMBOLS, "add_dummy_prefix": False},
    ),
    "bpe": (WIZARD, {"model_type": "bpe", "vocab_size": 600, "user_defined_symbols": SYMBOLS}),
}


@pytest.mark.parametrize("name", some(MODELS, ("casefolded", "symbols")))
def test_models_trained_here_give_sentencepieces_ids(name: str, shared: Path, folder: Path) -> None:
    """Viterbi over scores; normalization by the model's own table; symbols that are never cut; bytes, or one unknown
    for a run of them.
    """
    pattern, settings = MODELS[name]
    tokenizer = SentencePieceTokenizer(trained(shared, pattern, **settings), {"legacy": True}, name)
    program = program_of(tokenizer, folder / name)
    own = [
        "  two  spaces  ",
        " ",
        "   ",
        "ozmaozm <sep>ozmozma",
        "ﬁne ＡＢＣ ①② ㍿ ﷺ ½",
        "ＯＺＭＡ Ｏｚｍａ",
        "q\u0301̈ ΣΊΣΥΦΟΣ straße",
        "\u200b\ufeffzero\u00adwidth",
        "語語語 語",
        "a" * 5000,
    ]
    for text in [*strings(shared), *MORE, *samples(shared), *own]:
        assert ids_of(program, text) == tokenizer.encode(text), text


def test_a_long_prompt_takes_time_in_proportion(shared: Path, folder: Path) -> None:
    """A hundred thousand characters: joining is by a heap, not by looking at all pairs again for each."""
    tokenizer, program = of_gguf(shared / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf", folder)
    text = (next(iter(sorted(shared.glob("text_shakespeare/[!S]*.txt")))).read_text(encoding="utf-8"))[:100_000]
    assert ids_of(program, text) == tokenizer.encode(text)


@pytest.mark.parametrize(("place", "value"), [(100, 0x7FFFFFFF), (-100, 0xFFFFFFFF)])
def test_a_damaged_vocabulary_is_refused(place: int, value: int, shared: Path, folder: Path) -> None:
    _, program = of_gguf(shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf", folder)
    whole = bytearray((program.parent / "parameters").read_bytes())
    constants = dict(
        line.split()[1:3]
        for line in (program.parent / "run.c").read_text().splitlines()
        if line.startswith("#define ") and len(line.split()) == 3
    )
    offset = int(constants["TOKENIZER_OFFSET"].removeprefix("((size_t)").removesuffix(")"))
    at = offset + 4 * (place if place > 0 else 2 * int(constants["VOCAB_TOKENS"]) + place)
    whole[at : at + 4] = value.to_bytes(4, "little")
    (program.parent / "damaged").write_bytes(whole)
    done = run(program, "hello", parameters="damaged")
    assert (done.returncode, "damaged" in done.stderr) == (1, True)


def test_any_bytes_behind_the_weights_end_clearly(shared: Path, folder: Path) -> None:
    """Scores, merges, ranges, trie and texts of noise: other ids, or a clear end; nothing that a sanitizer minds."""
    pattern, settings = MODELS["casefolded"]
    tokenizer = SentencePieceTokenizer(trained(shared, pattern, **settings), {}, "noise")
    words = vocabulary.of(tokenizer)
    assert isinstance(words, vocabulary.Vocabulary)
    program = program_of(tokenizer, folder / "noise")
    whole, draw = (program.parent / "parameters").read_bytes(), np.random.default_rng(0)
    begin, tokens = len(whole) - len(words.data), words.constants["VOCAB_TOKENS"]
    spared = begin + 4 * (2 * tokens + 1)  # where texts begin and how they are sorted: noise there is found at once
    for _ in range(6):
        noise = bytearray(whole)
        for at in draw.integers(spared, len(whole), 4000):
            noise[at] = draw.integers(256)
        (program.parent / "noise").write_bytes(noise)
        done = run(program, "hello 你好 ＡＢＣ ﷺ", parameters="noise")
        assert (done.returncode, done.stderr) in (
            (0, ""),
            (1, "run: the vocabulary in the parameters file is damaged\n"),
        )


def test_a_truncated_or_foreign_model_is_no_model(shared: Path) -> None:
    whole = (shared / "llama2_tokenizer" / "tokenizer.model").read_bytes()
    assert len(read_model(whole).pieces) == 32000
    for data in (b"", whole[:1000], b"\xff" * 50, b"\x0a\xff\xff\xff\x7f", b"not a model"):
        with pytest.raises(TokenizerError, match="not a SentencePiece model"):
            read_model(data)


def test_what_the_program_lacks_is_named(shared: Path) -> None:
    for settings, said in (
        ({"model_type": "char"}, "SentencePiece, char"),
        ({"model_type": "unigram", "treat_whitespace_as_suffix": True}, "SentencePiece, unigram"),
    ):
        made = trained(shared, "text_misc/*izard*", vocab_size=200, **settings)
        assert vocabulary.of(SentencePieceTokenizer(made, {"legacy": True}, "lacking")) == said
