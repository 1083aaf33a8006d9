"""The training commands, as a person types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from reference import telling

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import ConfigError, PellucidError, RequestError
from pellucid.cli.app import app
from pellucid.cli.runs.run_config import read_yaml
from pellucid.families import FAMILIES
from pellucid.train.runs.sizes import Sizes, describe

TEXT = "To be, or not to be: that is the question.\n" * 60
SMALL = [
    "--tokenizer",
    "char",
    "--depth",
    "1",
    "--d-model",
    "16",
    "--num-heads",
    "2",
    "--context-len",
    "16",
    "--batch-size",
    "4",
    "--warmup-steps",
    "2",
]
SMALL += ["-t", "1"]


def pellucid(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "book"
    pellucid(
        "pretrain",
        "-d",
        book,
        *SMALL,
        "--steps",
        "12",
        "--save-every",
        "4",
        "--sample-every",
        "6",
        "--lr",
        "1e-2",
        "-o",
        out,
    )
    return out


def test_a_run_leaves_a_model_that_loads_and_writes(run: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run, device="cpu"), AutoTokenizer.from_pretrained(run)
    out = model.generate([tokenizer.encode("To be")], max_new_tokens=4)
    assert tokenizer.decode(out[0].tolist()).startswith("To be")


def test_a_run_keeps_its_figures_samples_and_settings(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert "val_loss" in lines[-1]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [6, 12]
    saved = read_yaml(str(run / "run.yaml"))
    assert (saved["steps"], saved["lr"], saved["depth"]) == (12, 0.01, 1)


def test_the_saved_settings_repeat_the_run(run: Path, tmp_path: Path) -> None:
    pellucid("pretrain", "--config", run / "run.yaml", "-o", tmp_path / "again", "-q")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_flags_beat_the_config_and_its_mistakes_are_named(book: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        f"data: {book}\ntokenizer: char\ndepth: 1\nd-model: 16\nnum_heads: 2\ncontext_len: 16\nsteps: 9\nlr: 1e-2\n"
    )
    pellucid("pretrain", "--config", tmp_path / "run.yaml", "--steps", "2", "-o", tmp_path / "run", "-t", "1", "-q")
    assert (read_yaml(str(tmp_path / "run/run.yaml"))["steps"], read_yaml(str(tmp_path / "run/run.yaml"))["lr"]) == (
        2,
        0.01,
    )
    (tmp_path / "run.yaml").write_text("batchsize: 4\n")
    with pytest.raises(ConfigError, match=r"'batchsize' is no flag of pretrain(.|\n)*batch_size"):
        pellucid("pretrain", "--config", tmp_path / "run.yaml")


def test_other_settings_do_not_go_on_with_a_run(run: Path, book: Path) -> None:
    with pytest.raises(ConfigError, match=r"begun with another seed \(expected 0, received 7\)"):
        pellucid("pretrain", "-d", book, *SMALL, "--steps", "12", "--seed", "7", "-o", run)


def test_without_a_text_it_says_how_to_name_one() -> None:
    with pytest.raises(RequestError, match="-d FILE"):
        pellucid("pretrain")


def test_evaluate_measures_a_run(run: Path, book: Path) -> None:
    result = pellucid("evaluate", "-m", run, "-d", book, "--stride", "4", "--max-bytes", "500", "--json")
    its = json.loads(result.stdout)
    assert (its["num_bytes"], its["num_scored"], its["stride"]) == (499, 499, 4), "nothing comes before the first token"
    assert 0 < its["bits_per_byte"] < 5


def test_tokenizer_train_makes_a_folder_that_loads(book: Path, tmp_path: Path) -> None:
    pellucid("tokenizer", "train", "-d", book, "--vocab-size", "300", "-o", tmp_path / "tokenizer")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "tokenizer")) <= 300


# MiMo turns a third of each head, which of the 64 that heads have here is no whole number of pairs.
@pytest.mark.parametrize("family", telling([family for family in FAMILIES if family != "mimo_v2_flash"]))
def test_every_family_can_be_described_by_its_depth(family: str) -> None:
    config = describe(
        family,
        Sizes(depth=3, context_len=32),
        vocab_size=100,
        tie_embeddings=FAMILIES[family].config(FAMILIES[family].TINY).tie_embeddings,
    )
    assert (config.num_layers, config.d_model, config.vocab_size) == (3, 192, 100)
    assert FAMILIES[family].config(FAMILIES[family].to_hf(config)) == config


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(PellucidError, match="multiple of num_heads"):
        describe("llama", Sizes(depth=2, context_len=32, d_model=100, num_heads=3), vocab_size=100)


def torchrun(*words: object, **settings: Any) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    return subprocess.Popen([*command, *map(str, words)], text=True, **settings)


def losses(run: Path) -> list[tuple[float, float]]:
    return [
        (its["loss"], its["grad_norm"]) for its in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_go_on_after_one_was_killed(book: Path, tmp_path: Path) -> None:
    words = [
        "-m",
        "pellucid",
        "pretrain",
        "-d",
        book,
        *SMALL,
        "--steps",
        "30",
        "--save-every",
        "5",
        "--sample-every",
        "0",
        "--lr",
        "1e-2",
        "-o",
    ]
    subprocess.run([sys.executable, *map(str, words), tmp_path / "one"], check=True, timeout=300)
    killed = torchrun(*words, tmp_path / "two", stderr=subprocess.PIPE)
    while not (tmp_path / "two/checkpoints/step-00000005").is_dir():
        assert killed.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said = killed.communicate(timeout=120)[1]
    assert killed.returncode != 0
    assert "SIGKILL" in said, "the death of a worker is reported"
    assert len(losses(tmp_path / "two")) < 30
    assert torchrun(*words, tmp_path / "two").wait(300) == 0
    assert len(losses(tmp_path / "two")) == 30
    for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)
