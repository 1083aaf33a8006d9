"""``tiny``, the model that came with Pellucid: it needs no network, it has learned, it is a model like any other."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pellucid import AutoModelForCausalLM, AutoTokenizer, trace
from pellucid.checkpoint.sources.catalogue import Shipped, find_entry
from pellucid.train.measure.evaluate import evaluate


@pytest.fixture
def cut_off(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with nothing cached, whose pip reaches no index."""
    return {
        **os.environ,
        "PELLUCID_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True, timeout=300)


def test_it_is_at_most_4_megabytes_and_as_large_as_the_catalogue_says() -> None:
    entry = find_entry("tiny")
    assert entry is not None
    assert isinstance(entry.source, Shipped)
    assert sum(file.stat().st_size for file in entry.source.path.iterdir()) == entry.size <= 4_000_000
    assert entry.is_cached()


def test_it_goes_on_in_the_language_and_manner_of_the_prompt() -> None:
    tokenizer, model = AutoTokenizer.from_pretrained("tiny"), AutoModelForCausalLM.from_pretrained("tiny")

    def continued(prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=60, do_sample=True, temperature=0.7, top_k=50, seed=1)[
            0, ids.shape[1] :
        ]
        return tokenizer.decode(new, skip_special_tokens=True)

    assert continued("KING HENRY:\n").isascii()
    poem = continued("《静夜思》李白\n").strip().splitlines()
    assert all(len(clause) in (5, 7) for line in poem for clause in line.rstrip("。！？").split("，") if clause), poem


@pytest.mark.parametrize(
    "text", ["text_shakespeare/input.txt", "text_misc/wizard_of_oz.txt", "text_chinese/hongloumeng.txt"]
)
def test_it_has_learned_its_texts(shared: Path, text: str) -> None:
    """The end of each text was held back from it, and takes it less than two thirds of the bits that xz takes."""
    tail = (shared / text).read_text("utf-8")[-6000:]
    tokenizer, model = (
        AutoTokenizer.from_pretrained("tiny"),
        AutoModelForCausalLM.from_pretrained("tiny", dtype="float32"),
    )
    xz = 8 * len(lzma.compress(tail.encode(), preset=9)) / len(tail.encode())
    its = evaluate(model, tokenizer.encode(tail), num_bytes=len(tail.encode())).bits_per_byte
    assert its < 2 / 3 * xz, f"{its:.2f} bits per byte, xz {xz:.2f}"


def test_transformers_computes_the_same_logits() -> None:
    from transformers import AutoModelForCausalLM as Theirs

    entry = find_entry("tiny")
    assert entry is not None
    assert isinstance(entry.source, Shipped)
    ids = AutoTokenizer.from_pretrained("tiny")("To be, or not to be: 床前明月光", return_tensors="pt")["input_ids"]
    theirs = Theirs.from_pretrained(entry.source.path, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(
            AutoModelForCausalLM.from_pretrained("tiny", dtype="float32")(ids).logits,
            theirs(ids).logits,
            atol=2e-5,
            rtol=0,
        )


def test_every_number_of_its_run_agrees_with_its_equation() -> None:
    model = AutoModelForCausalLM.from_pretrained("tiny", dtype="float32")
    assert all(check.ok for check in trace(model, AutoTokenizer.from_pretrained("tiny"), "《静夜思》李白").checks)


def test_the_demo_falls_back_to_it_without_a_network(cut_off: dict[str, str]) -> None:
    result = run(cut_off, "pellucid.cli.demo")
    assert result.returncode == 0, result.stderr
    assert "smollm2 cannot be had here" in result.stderr
    assert "pellucid generate -m tiny" in result.stderr
    assert "pellucid chat" not in result.stderr, "it would refuse: it has no chat format"
    assert len(result.stdout.strip()) > 100


def test_explain_falls_back_to_it_and_says_so(cut_off: dict[str, str]) -> None:
    result = run(cut_off, "pellucid", "explain", "To be, or not to")
    assert result.returncode == 0, result.stderr
    assert "Going on with tiny" in result.stderr
    assert "tiny" in result.stdout


def test_a_model_that_was_named_is_not_replaced(cut_off: dict[str, str]) -> None:
    result = run(cut_off, "pellucid", "explain", "-m", "smollm2-360m", "To be")
    assert result.returncode == 2
    assert "tiny" not in result.stdout
