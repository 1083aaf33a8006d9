"""The commands that only look: ``tokenize``, ``inspect``, ``list``, ``pull`` of what is here; and the demo."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.array import Array
from pellucid.checkpoint.open import open_checkpoint
from pellucid.checkpoint.save import save_checkpoint
from pellucid.cli.app import app
from pellucid.cli.inspect import _shortened
from pellucid.cli.terminal.anatomy import layer_groups, weights_of
from pellucid.cli.terminal.console import Wrapper, printable, visible
from pellucid.cli.terminal.numbers import count, duration, ranges, size
from pellucid.config import weight_shapes
from pellucid.families import FAMILIES


def invoke(*arguments: object, status: int = 0, **settings: Any) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False, **settings)
    assert result.exit_code == status, result.output
    return result


# --- tokenize


def test_pieces_cover_the_text_byte_by_byte(smollm2: Path) -> None:
    text = "Hello 龘 world, naïve café\n"
    pieces = json.loads(invoke("tokenize", "-m", smollm2, text, "--json").stdout)
    at = 0
    for piece in pieces:
        start, end = piece["byte_range"]
        assert start == at
        assert piece["text"] == text[slice(*piece["char_range"])]
        at = end
    assert at == len(text.encode())
    assert sum(piece["text"] == "龘" for piece in pieces) == 2, "one character in several tokens"


def test_the_table_shows_the_notes_example(shared: Path) -> None:
    result = invoke("tokenize", "-m", shared / "chatglm3_tokenizer", "Using a Transformer network is simple")
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == ["64790", "64792", "6316", "260", "3107", "17639", "2804", "323", "2718"]
    assert "former" in rows[5]
    assert "9 tokens" in result.stderr


def test_ids_alone_are_one_line(stories: Path) -> None:
    assert invoke("tokenize", "-m", stories / "tok512.bin", "--ids", "Once upon").stdout == "1 403 407\n"
    assert invoke("tokenize", "-m", stories / "tok512.bin", "--ids", "--no-special", "Once upon").stdout == "403 407\n"


def test_text_is_read_from_a_pipe(stories: Path) -> None:
    assert invoke("tokenize", "-m", stories / "tok512.bin", "--ids", input="Once upon\n").stdout == "1 403 407\n"


def test_a_chat_is_shown_with_its_template(smollm2: Path, shared: Path) -> None:
    tokens = [
        piece["token"]
        for piece in json.loads(invoke("tokenize", "-m", smollm2, "--chat", "Hi", "-sys", "Be brief.", "--json").stdout)
    ]
    assert tokens[:2] == ["<|im_start|>", "system"]
    assert tokens.count("<|im_start|>") == 3
    native = [
        piece["token"]
        for piece in json.loads(
            invoke("tokenize", "-m", shared / "chatglm3_tokenizer", "--chat", "Hi", "--json").stdout
        )
    ]
    assert native[:3] == ["[gMASK]", "sop", "<|user|>"]
    assert native[-1] == "<|assistant|>"


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert visible("a\x1b[31mb\n\u202e") == "a\\x1b[31mb\\n\\u202e"
    assert printable("a\x1b[31mb\n\tc\x07\x9b") == "a[31mb\n\tc"


def test_a_stream_is_wrapped_between_words() -> None:
    def wrapped(*pieces: str) -> str:
        wrapper = Wrapper(10)
        return "".join(wrapper.push(piece) for piece in (*pieces, "\n"))

    assert wrapped("The answer", " li", "es here") == "The answer\nlies here\n"
    assert wrapped("one two three four") == "one two \nthree four\n"
    assert wrapped("a", "bcdefghijklmno pq") == "abcdefghijklmno pq\n", "longer than a line: the terminal breaks it"
    assert wrapped("ab\n\n  cd") == "ab\n\n  cd\n"
    assert wrapped("大模型令人头秃") == "大模型令人\n头秃\n"


@given(st.lists(st.text(st.sampled_from("ab大 \n"), max_size=30)), st.integers(2, 12))
def test_wrapping_changes_nothing_but_spaces_and_line_breaks(pieces: list[str], columns: int) -> None:
    wrapper = Wrapper(columns)
    shown = "".join(wrapper.push(piece) for piece in (*pieces, "\n"))
    assert "".join(shown.split()) == "".join("".join(pieces).split())
    words = {word for word in "".join(pieces).replace("大", " ").split() if len(word) <= columns}
    assert words <= set(shown.replace("大", " ").split()), "a word that fits is never broken"


# --- inspect


def test_parts_add_up_to_the_whole(stories: Path, smollm2: Path) -> None:
    for path in (stories / "stories260K.bin", stories / "hf", smollm2):
        facts = json.loads(invoke("inspect", path, "--json").stdout)
        assert sum(part["parameters"] for part in facts["parts"].values()) == facts["num_parameters"]
        assert sum(part["bytes"] for part in facts["parts"].values()) == sum(
            weight["bytes"] for weight in facts["weights"]
        )
        assert sum(weight["bytes"] for weight in facts["weights"]) <= sum(facts["files"].values())
        assert facts["native_lacks"] is None


def test_smollm2_reads_as_it_is(smollm2: Path) -> None:
    text = invoke("inspect", "-m", smollm2, "-c", 2048).stdout
    for part in (
        "135 M parameters",
        "9 heads of 64, 3 key-value heads (each serves 3)",
        "576 → 1,536 → 576, gated SiLU",
        "layers 0–29",
        "lm_head",
        "q4_1 68.7%, q8_0 31.1%",
        "BPE, 49,152 tokens",
        "native, torch",
        "native, as stored: ",
        "torch, float32: ",
        "2,048 tokens",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_layers_alike_are_shown_once(stories: Path) -> None:
    (group,) = layer_groups(weights_of(open_checkpoint(stories / "hf")))
    assert group.layers == (0, 1, 2, 3, 4)
    assert group.weights[0].name == "attention_norm.weight"


def test_fused_and_renamed_weights_are_found_in_every_family(tmp_path: Path) -> None:
    for name, family in FAMILIES.items():
        config = family.config({"model_type": name, **family.TINY})
        arrays = {name: Array.from_numpy(np.zeros(shape, np.float32)) for name, shape in weight_shapes(config).items()}
        save_checkpoint(tmp_path / name, config, arrays)
        weights = weights_of(open_checkpoint(tmp_path / name))
        assert {its.name: its.shape for its in weights} == weight_shapes(config)
        other = [its.name for its in weights if its.nbytes != 4 * its.num_parameters]
        assert other in ([], ["pos_embed.weight"]), "a table of positions may have rows that are never read"


def test_nothing_but_headers_is_read(tmp_path: Path) -> None:
    """A safetensors file of 16 GB whose data are a hole: reading them would take far longer than the test may."""
    config = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 20,
    }
    config |= {
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    d, f = 4096, 11008
    shapes = {"model.embed_tokens.weight": [32000, d], "model.norm.weight": [d]}
    for i in range(20):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": [d, d] for name in "qkvo"}
        shapes |= {
            f"{at}.mlp.gate_proj.weight": [f, d],
            f"{at}.mlp.up_proj.weight": [f, d],
            f"{at}.mlp.down_proj.weight": [d, f],
        }
        shapes |= {f"{at}.input_layernorm.weight": [d], f"{at}.post_attention_layernorm.weight": [d]}
    header, end = {}, 0
    for name, shape in shapes.items():
        nbytes = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    command = [sys.executable, "-m", "pellucid", "inspect", str(tmp_path), "--json"]
    facts = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    assert facts["num_parameters"] == 4_178_743_296
    assert sum(facts["files"].values()) > 16e9
    assert (tmp_path / "model.safetensors").stat().st_blocks * 512 < 1e6
    assert facts["tokenizer"]["tokenizer"].startswith("none")


# --- list and pull


def test_list_names_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    row = next(row for row in json.loads(invoke("list", "--json").stdout) if row["name"] == "smollm2")
    assert (row["cached"], row["licence"]) == (False, "Apache-2.0")
    assert "smollm2" in invoke("list").stdout


def test_pull_offline_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-m", "pellucid", "pull", "smollm2", "--offline"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert "offline" in result.stderr
    assert result.stdout == ""


def test_pull_prints_where_a_cached_model_lies(smollm2: Path) -> None:
    if smollm2.parent.name != "smollm2":
        pytest.skip("SmolLM2 is not in the cache; run: pellucid pull smollm2")
    result = invoke("pull", "SmolLM2", "--offline")
    assert result.stdout.strip() == str(smollm2)
    assert "in the cache already" in result.stderr


# --- the demo


def demo(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pellucid.cli.demo"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)


def test_the_demo_answers_and_says_where_to_go(stories: Path) -> None:
    result = demo(MODEL=str(stories / "stories260K.bin"), PROMPT="Once upon a $time's \"end")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.strip()) > 100
    assert "tokens/s" in result.stderr
    assert "$ .venv/bin/pellucid generate" in result.stderr
    assert ".venv/bin/pellucid chat" not in result.stderr, "it was never taught to"
    assert '-p "Once upon a time"' in result.stderr or "-p 'Once upon a time'" in result.stderr
    assert ".venv/bin/pellucid explain" in result.stderr


def test_the_demo_of_a_model_that_chats_says_how_to_talk_with_it(smollm2: Path) -> None:
    result = demo(MODEL=str(smollm2), PROMPT="What is the capital of France?")
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert f".venv/bin/pellucid chat -m {smollm2}" in result.stderr


def test_the_demo_without_its_model_tells_of_models_on_disk(tmp_path: Path) -> None:
    result = demo(MODEL=str(tmp_path / "absent.gguf"))
    assert result.returncode == 2
    assert "make demo MODEL=path" in result.stderr
    assert "Traceback" not in result.stderr


# --- numbers


def test_numbers_read_well() -> None:
    assert [size(n) for n in (0, 999, 1000, 98_362_432, 2.2e9)] == ["0 bytes", "999 bytes", "1 kB", "98.4 MB", "2.2 GB"]
    assert [count(n) for n in (260_032, 134_515_008, 7e9)] == ["260 K", "135 M", "7 B"]
    assert [duration(s) for s in (0.1234, 12.3, 200)] == ["0.12 s", "12 s", "3 min 20 s"]
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert ranges([]) == ""


@pytest.mark.parametrize(
    ("layers", "label"),
    [
        (range(30), "layers 0–29"),
        ((0, 1, 5), "layers 0–1, 5"),
        ((0, 1, 2, 5, 8, 11, 14, 17, 20, 26, 27), "layers 0–2, …, 26–27"),
        (range(100, 140, 2), "layers 100, …, 138"),
    ],
)
def test_many_ranges_of_layers_leave_room_for_the_numbers(layers: Any, label: str) -> None:
    assert _shortened(f"layers {ranges(layers)}") == label


def test_inspect_names_the_keys_that_nothing_reads(tmp_path: Path, stories: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (stories / "hf").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hf | {"a_key_of_tomorrow": 7}))
    assert json.loads(invoke("inspect", folder, "--json").stdout)["unread_keys"] == ["a_key_of_tomorrow"]
    assert "a_key_of_tomorrow" in invoke("inspect", folder).stdout
    assert json.loads(invoke("inspect", stories / "hf", "--json").stdout)["unread_keys"] == []
