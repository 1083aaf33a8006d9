"""``pellucid convert``: to GGUF and back; two files, of which what it prints is what to type next, and that answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import absent
from option_walk import make_model

from pellucid import AutoTokenizer
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint import open_checkpoint
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.imatrix import read_imatrix, write_imatrix
from pellucid.cli.convert import COMPILE
from pellucid.model.importance import input_squares
from pellucid.model.load import load_decoder
from pellucid.quant import dequantize


def test_the_two_files_compile_and_tell_the_published_story(stories: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        absent("no C compiler; install gcc")
    run = subprocess.run(
        [sys.executable, "-m", "pellucid", "convert", stories / "stories260K.bin", tmp_path, "--two-files"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(tmp_path / "parameters"), str(tmp_path / "run.c")]
    assert COMPILE in run.stderr
    told = subprocess.run(
        f'{COMPILE} "Once upon a time"',
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    story = (stories / "greedy_257.txt").read_text(encoding="utf-8")
    assert story[len("Once upon a time") : 120] in told.stdout


def convert(*words: object) -> tuple[int, str, str]:
    from click.testing import CliRunner

    from pellucid.cli.app import app

    result = CliRunner().invoke(app, ["convert", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr + str(result.exception or "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


def test_without_a_form_it_says_what_there_is(folder: Path, tmp_path: Path) -> None:
    status, _, said = convert(folder, tmp_path / "out")
    assert status
    assert "OUT.gguf, --dtype, --quantize, --two-files" in said


def test_a_folder_as_gguf_and_back_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    """Weights, tokenizer, template and ends of an answer come along."""
    status, out, said = convert(folder, tmp_path / "x.gguf")
    assert (status, out.strip()) == (0, str(tmp_path / "x.gguf")), said
    assert "every number as it was" in said
    assert convert(tmp_path / "x.gguf", tmp_path / "back")[0] == 0
    first, file, back = (open_checkpoint(path) for path in (folder, tmp_path / "x.gguf", tmp_path / "back"))
    for name, array in first.weights.items():
        assert np.array_equal(array.data, file.weights[name].data)
        assert np.array_equal(array.data, back.weights[name].data)
    assert file.config.eos_token_ids == first.config.eos_token_ids
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "x.gguf"))
    chat = [{"role": "user", "content": "Hi  there 12"}]
    assert ours.apply_chat_template(chat, add_generation_prompt=True) == theirs.apply_chat_template(
        chat, add_generation_prompt=True
    )


def test_quantized_by_importance_the_text_costs_less(folder: Path, tmp_path: Path) -> None:
    """Of the inputs that the text has; the matrix is kept, and read again to the same bytes."""
    text = tmp_path / "text.txt"
    text.write_text("It was a bright cold day in April, and the clocks were striking thirteen. " * 30)
    plain, weighed, again = (tmp_path / f"{name}.gguf" for name in ("plain", "weighed", "again"))
    words = ("--quantize", "q4_0", "-q")
    assert convert(folder, plain, *words)[0] == 0
    assert convert(folder, weighed, *words, "--imatrix", text, "--save-imatrix", tmp_path / "i.gguf")[0] == 0
    assert convert(folder, again, *words, "--imatrix", tmp_path / "i.gguf")[0] == 0
    columns = read_imatrix(tmp_path / "i.gguf").importance()
    assert {array.ndim for array in columns.values()} == {1}
    first = open_checkpoint(folder)
    names = {"blk.0.attn_k.weight": "layers.0.attention.k_proj.weight"}
    names |= {"blk.1.ffn_up.weight": "layers.1.mlp.up_proj.weight"}
    for theirs, ours in names.items():

        def loss(path: Path, theirs: str = theirs, ours: str = ours) -> float:
            error = dequantize(open_checkpoint(path).weights[ours]) - dequantize(first.weights[ours])
            return float((columns[theirs] * np.square(error)).sum())

        assert loss(weighed) < loss(plain)
    opened = [GGUFFile(path) for path in (weighed, again)]
    for name in opened[0].tensors:
        assert np.array_equal(opened[0].tensors[name].data, opened[1].tensors[name].data)
    assert opened[0].metadata["quantize.imatrix.dataset"] == "text.txt"


def test_what_each_column_counts_is_its_inputs_mean_square(folder: Path) -> None:
    """Of the first layer's queries: the normed embeddings of the tokens, computed here from the files."""
    checkpoint, ids = open_checkpoint(folder), [[5, 9, 12, 40, 7], [3, 3, 8]]
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    sums, count = input_squares(decoder, ids)["layers.0.attention.q_proj.weight"]
    table, gamma = (checkpoint.weights[name].data for name in ("embed.weight", "layers.0.attention_norm.weight"))
    x = table[[i for chunk in ids for i in chunk]].astype(np.float64)
    normed = (
        x / np.sqrt((x**2).mean(1, keepdims=True) + checkpoint.config.layers[0].norms["attention_norm"].eps) * gamma
    )
    assert count == 8
    np.testing.assert_allclose(sums, (normed**2).sum(0), rtol=1e-5)


def test_options_of_another_form_are_refused(folder: Path, tmp_path: Path) -> None:
    for words, said in (
        (("x.gguf", "--quantize", "q4"), "--quantize q4 is not for this form"),
        (("x", "--two-files", "--quantize", "q4_k_m"), "--quantize q4_k_m is not for this form"),
        (("x", "--quantize", "q4_k_m"), "--quantize q4_k_m is not for this form"),
        (("x.gguf", "--quantize", "int4"), "--quantize int4 is not for this form"),
        (("x", "--imatrix", folder / "config.json"), "--imatrix has no effect"),
        (("x.gguf", "--dtype", "float16"), "--dtype has no effect"),
        (("x.gguf", "--save-imatrix", "y"), "--save-imatrix has no effect"),
        (("x", "--threads", "1", "--dtype", "float16"), "--threads has no effect"),
    ):
        status, _, error = convert(folder, tmp_path / words[0], *words[1:])
        assert status
        assert said in error, error


def test_a_damaged_importance_matrix_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A few words that are enough. " * 9)
    words = ("--quantize", "q4_0", "--imatrix", tmp_path / "text.txt", "--save-imatrix", tmp_path / "i.gguf")
    assert convert(folder, tmp_path / "x.gguf", *words)[0] == 0
    whole = read_imatrix(tmp_path / "i.gguf")
    name = "blk.0.attn_q.weight"
    for sums, said in ((-whole.sums[name], "negative"), (whole.sums[name] * np.nan, "do not fit")):
        write_imatrix(tmp_path / "bad.gguf", replace(whole, sums={**whole.sums, name: sums}))
        with pytest.raises(CheckpointError, match=said):
            read_imatrix(tmp_path / "bad.gguf")
    with pytest.raises(CheckpointError, match="not an importance matrix"):
        read_imatrix(tmp_path / "x.gguf")
    write_imatrix(tmp_path / "other.gguf", replace(whole, sums={**whole.sums, name: whole.sums[name][:, :16]}))
    status, _, error = convert(folder, tmp_path / "y.gguf", "--quantize", "q4_0", "--imatrix", tmp_path / "other.gguf")
    assert status
    assert "of another model: blk.0.attn_q.weight" in error
