"""Tiny tokenizers of every kind, what stands beside them, and chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuzz.mutations import Binary, Folder, Json, Known, Text
from fuzz.mutations_binary import Proto
from fuzz.use import use_tokenizer


def pieces() -> list[tuple[str, float, int]]:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = ["▁", "H", "e", "l", "o", "w", "r", "d", "a", "é", "ll", "▁H", "▁He", "▁Hell", "▁Hello", "or", "ld"]
    return pieces + [(word, -float(place), 1) for place, word in enumerate(words)]


def _sentencepiece() -> bytes:
    from pellucid.text.readers.sentencepiece_proto import build_model

    return build_model(
        pieces(), unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )


def added(place: int, content: str) -> dict[str, Any]:
    return {
        "id": place,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _tokenizer_json(model: dict[str, Any], **parts: Any) -> Json:
    words = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts}
    return Json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(0, "<s>"), added(1, "</s>")],
            **words,
            "model": model,
        }
    )


LETTERS = "HeloWwrdabc"


def tokenizer_jsons() -> list[Json]:
    vocab = {
        token: place
        for place, token in enumerate(["<s>", "</s>", "<unk>", *dict.fromkeys(LETTERS), "Ġ", "Ċ", "1", "2", "ll", "lo"])
    }
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [["l", "l"], ["l", "o"]],
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    replace = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    prepend = {"type": "Prepend", "prepend": "▁"}
    lower: list[dict[str, Any]] = [
        {"type": "Lowercase"},
        {"type": "NFD"},
        {"type": "StripAccents"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
    ]
    split = {"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+"}, "behavior": "Isolated", "invert": False}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    spaced = {"▁": 0, **{token: place + 1 for place, token in enumerate(vocab) if token != "<s>"}, "<s>": len(vocab)}
    fuse = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return [
        _tokenizer_json(bpe, pre_tokenizer=level, decoder=level, post_processor=template),
        _tokenizer_json(
            bpe,
            normalizer={"type": "Sequence", "normalizers": [replace, prepend, {"type": "NFC"}]},
            pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]},
            decoder=level,
        ),
        _tokenizer_json(
            {**bpe, "vocab": spaced, "byte_fallback": True, "unk_token": "<unk>"},
            normalizer=prepend,
            pre_tokenizer=space,
            decoder=fuse,
        ),
        _tokenizer_json(
            {
                "type": "Unigram",
                "unk_id": 0,
                "vocab": [["<unk>", 0.0], *([token, -1.0] for token in list(vocab)[3:])],
                "byte_fallback": False,
            },
            normalizer={"type": "Sequence", "normalizers": lower},
            pre_tokenizer=space,
            decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        ),
        _tokenizer_json(
            {
                "type": "WordPiece",
                "unk_token": "<unk>",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
            pre_tokenizer={"type": "BertPreTokenizer"},
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        ),
        _tokenizer_json(
            {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab}, pre_tokenizer={"type": "Whitespace"}
        ),
    ]


def known_tokenizer_jsons() -> list[Known]:
    """Replacements of replacements, one token with the id 300,000,000, a prefix of 60,000 signs before each word."""
    import copy

    plain = tokenizer_jsons()[0]
    made = []
    grow = {"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 20}
    parts: list[tuple[str, Any]] = [
        ("normalizer", {"type": "Sequence", "normalizers": [grow] * 8}),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{**grow, "pattern": {"Regex": "|l"}, "content": "ll"}] * 12},
        ),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 9000}] * 12}),
        ("decoder", {"type": "Sequence", "decoders": [grow] * 8}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(l+)+$"}, "behavior": "Isolated", "invert": False}),
    ]
    for part, value in parts:
        made.append(Known(plain, Json({**plain.tree, part: value})))
    far = copy.deepcopy(plain.tree)
    far["model"]["vocab"]["H"] = 300_000_000
    return [*made, Known(plain, Json(far))]


TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": {
        "content": "</s>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "__type": "AddedToken",
    },
    "pad_token": "</s>",
    "unk_token": None,
    "model_max_length": 64,
    "clean_up_tokenization_spaces": True,
    "add_bos_token": True,
    "add_prefix_space": False,
    "padding_side": "left",
    "additional_special_tokens": ["<x>"],
    "added_tokens_decoder": {"0": {"content": "<s>", "special": True}, "1": {"content": "</s>", "special": True}},
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
CONFIG_KEYS: dict[str, Any] = {
    "stop_token_ids": [1],
    "model_input_names": ["input_ids"],
    "extra_special_tokens": {"image_token": "<i>"},
    "legacy": True,
    "truncation_side": "left",
    "image_token": "<img>",
    "split_special_tokens": True,
    "llama2c": True,
    "add_eos_token": True,
    "tokenizer_class": "LlamaTokenizer",
    "encode_special_tokens": True,
    "errors": "replace",
    "sp_model_kwargs": {},
}


def read_tokenizer_chat(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    use_tokenizer(tokenizer, folder)
    if tokenizer.chat_template is not None:
        tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)


def config_seeds() -> list[Folder]:
    config = {**TOKENIZER_CONFIG}
    flat = {name: value for name, value in config.items() if name != "added_tokens_decoder"}
    legacy = {
        "special_tokens_map.json": Json(
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["<x>"]}
        ),
        "added_tokens.json": Json({"<x>": 40, "<y>": 41}),
    }
    model: Folder = {"tokenizer.model": Binary(_sentencepiece())}
    words: Folder = {"tokenizer.json": tokenizer_jsons()[0]}
    llama = {**config, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}
    glm = {
        "tokenizer_class": "ChatGLMTokenizer",
        "added_tokens_decoder": {"0": {"content": "<unk>"}, "1": {"content": "<|user|>"}},
    }
    found: list[Folder] = []
    for files in (words, model):
        written = Json(config if files is words else llama, CONFIG_KEYS)
        found.append(
            {**files, "tokenizer_config.json": written, "generation_config.json": Json({"eos_token_id": [1, 2]})}
        )
        found.append({**files, "tokenizer_config.json": Json(flat, CONFIG_KEYS), **legacy})
        found.append({**files, "tokenizer_config.json": written})
    found.append({**model, "tokenizer_config.json": Json(glm, CONFIG_KEYS)})
    far = {str(300 + place * 2**20): {"content": f"<x{place}>", "special": True} for place in range(1, 900)}
    near = {str(300 + place): {"content": f"<x{place}>", "special": True} for place in range(1, 900)}
    configs = [Json({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": tokens}) for tokens in (near, far)]
    found.append({**model, "tokenizer_config.json": Known(*configs)})
    return found


def vocab_seeds() -> list[Folder]:
    vocab = {
        token: place
        for place, token in enumerate([*LETTERS[:4], "Ġ", "1", "2", "ll", "lo", "<|endoftext|>", "W", "r", "d"])
    }
    return [
        {
            "vocab.json": Json(vocab),
            "merges.txt": Text("#version: 0.2\nl l\nl o\n", ("l", "o", "ll", "lo", "Ġ", "H", "#version")),
            "tokenizer_config.json": Json({"tokenizer_class": "GPT2Tokenizer"}, CONFIG_KEYS),
        }
    ]


def _ranks() -> Text:
    import base64

    ranks = "\n".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256))
    ranks += f"\n{base64.b64encode(b'll').decode()} 256\n{base64.b64encode(b'llo').decode()} 257\n"
    return Text(ranks, ("bGw=", "256", "257", "AA==", "YWFh" * 300))


def tiktoken_seeds() -> list[Folder]:
    special = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>")
    named = {str(258 + place): {"content": token, "special": True} for place, token in enumerate(special)}
    glm = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": named}
    config: Folder = {"tokenizer_config.json": Json({"added_tokens_decoder": named}, CONFIG_KEYS)}
    return [
        {"tokenizer.model": _ranks(), "tokenizer_config.json": Json(glm)},
        *({name: _ranks(), **config} for name in ("tokenizer.model", "tiktoken.model", "qwen.tiktoken")),
    ]


def tekken_seeds() -> list[Folder]:
    import base64

    tokens = [*(bytes([byte]) for byte in range(256)), b"ll", b"llo", b" w"]
    file: dict[str, Any] = {
        "config": {"pattern": "\\s+|\\p{L}+", "default_vocab_size": 263, "default_num_special_tokens": 4},
        "vocab": [
            {"rank": place, "token_bytes": base64.b64encode(token).decode()} for place, token in enumerate(tokens)
        ],
        "special_tokens": [{"rank": place, "token_str": token} for place, token in enumerate(("<unk>", "<s>", "</s>"))],
    }
    first = {**file["config"], "default_vocab_size": 283, "default_num_special_tokens": 24}
    return [{"tekken.json": Json(file)}, {"tekken.json": Json({**file, "config": first, "special_tokens": None})}]


def word_piece_seeds() -> list[Folder]:
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"helowrd12", "##llo", "##l", "wo"])
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None}
    return [{"vocab.txt": Text(words, ("[UNK]", "##l", "\n", "[CLS]")), "tokenizer_config.json": Json(config)}]


def ice_text_seeds() -> list[Folder]:
    from pellucid.text.readers.sentencepiece_proto import build_model

    symbols = ("<n>", "<|tab|>", "<|blank_2|>", "<|blank_3|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>")
    listed = [*pieces(), *((symbol, 0.0, 4) for symbol in symbols)]
    model = build_model(
        listed, unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )
    config = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 3, "gmask_token": "[gMASK]"}
    return [{"ice_text.model": Proto(model), "tokenizer_config.json": Json(config)}]


def llama2c_words() -> list[Folder]:
    import struct

    tokens = [
        b"<unk>",
        b"\n<s>\n",
        b"\n</s>\n",
        *(f"<0x{byte:02X}>".encode() for byte in range(256)),
        b" ",
        b"a",
        b"l",
        b"ll",
    ]
    data = struct.pack("<i", 10) + b"".join(struct.pack("<fi", -1.0, len(token)) + token for token in tokens)
    return [{"tok263.bin": Binary(data, 60), "tokenizer_config.json": Json({})}, {"tok263.bin": Binary(data)}]


TEMPLATE = """{%- set ns = namespace(last=0) -%}
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' and loop.index0 > ns.last %}{% set ns.last = loop.index0 %}{% endif -%}
{{ '<|' + message['role'] + '|>' }}{{ message.content | trim }}{{ eos_token }}
{%- endfor -%}
{% macro one(x) %}{{ x * 2 }}{% endmacro %}{{ one('a') }}{{ range(3) | list | length }}
{% if add_generation_prompt %}{% generation %}<|assistant|>{% endgeneration %}{% endif %}"""
TEMPLATE_WORDS = (
    "{{",
    "}}",
    "{%",
    "%}",
    "range(10**9)",
    "'a'*10**9",
    "|join",
    "|tojson",
    "messages",
    "message",
    "loop",
    "ns",
    "**",
    "//",
    "0",
    "{% for i in range(99999) %}",
    "{% endfor %}",
    "{{ self }}",
    "{{ messages.append(messages) }}",
    "{{ 'a'.join(['b']*9999999) }}",
    "{{ '%999999999s' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 9**9**9 }}",
    "{{ ''.__class__ }}",
    "{% include 'x' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ raise_exception('x') }}",
    "{{ strftime_now('%Y') }}",
    "|center(999999999)",
)


def template_seeds() -> list[Folder]:
    files = {"tokenizer.json": tokenizer_jsons()[0], "tokenizer_config.json": Json(TOKENIZER_CONFIG)}
    return [{**files, "chat_template.jinja": Text(TEMPLATE, TEMPLATE_WORDS)}]


def read_two_files(folder: Path) -> None:
    """``convert --two-files`` of a tokenizer: the vocabulary as the program holds it."""
    from pellucid.native import vocabulary
    from pellucid.text.load import load_tokenizer

    vocabulary.of(load_tokenizer(folder))


def two_files_seeds() -> list[Folder]:
    return [
        {"tokenizer.json": known_tokenizer_jsons()[-1]},
        {"tokenizer.json": tokenizer_jsons()[0]},
        {
            "tokenizer.model": Proto(_sentencepiece()),
            "tokenizer_config.json": Json({"tokenizer_class": "LlamaTokenizer"}),
        },
    ]


def sentencepiece_seeds() -> list[Folder]:
    files: Folder = {"tokenizer_config.json": Json({"tokenizer_class": "LlamaTokenizer"})}
    glm: Folder = {"tokenizer_config.json": Json({"tokenizer_class": "ChatGLMTokenizer"})}
    return [{"tokenizer.model": Proto(_sentencepiece()), **one} for one in (files, files, glm)]
