"""Runs as people have them: made longer, gone on with at another rate, ended early, the best step kept, a dtype of
their own; and a stopped one run as it stands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from option_walk import make_model

from pellucid import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from pellucid.auto import open_model
from pellucid.base.errors import ConfigError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.cli.app import app

SIZES = ["--depth", 1, "--d-model", 16, "--num-heads", 2, "--context-len", 16, "--batch-size", 4]
QUIET = ["--record-every", 0, "--sample-every", 0, "-t", 1, "--device", "cpu"]


def pellucid(*words: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text("To be, or not to be: that is the question.\n" * 30 + "话说天下大势，分久必合，合久必分。\n" * 20)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) + "\n" for n in range(12)))
    return path


def pretrain(book: Path, out: Path, *words: object) -> Result:
    return pellucid("pretrain", "-d", book, "--tokenizer", "char", *SIZES, *QUIET, "-o", out, *words)


def finetune(model: Path, chats: Path, out: Path, *words: object) -> Result:
    base = ["-m", model, "-d", chats, "--batch-size", 2, "--context-len", 64, *QUIET, "-o", out]
    return pellucid("finetune", *base, *words)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


def weights(path: Path) -> dict[str, bytes]:
    return {name: array.data.tobytes() for name, array in SafetensorsFile(path / "model.safetensors").items()}


# --- longer, and otherwise --------------------------------------------------------------------------------------------


@pytest.mark.habit("training", "extend a finished run: --steps", "works")
def test_a_finished_run_made_longer_is_the_run_of_that_length(book: Path, tmp_path: Path) -> None:
    """With a constant rate nothing depends on the length: bit for bit."""
    words = ["--schedule", "constant", "--lr", 0.01, "--warmup-steps", 2]
    pretrain(book, tmp_path / "whole", *words, "--steps", 7)
    pretrain(book, tmp_path / "run", *words, "--steps", 3)
    said = pretrain(book, tmp_path / "run", *words, "--steps", 7).stderr
    assert "steps is 7 from here on (it was 3)" in said
    assert "going on after step 3" in said
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert [line["loss"] for line in metrics(tmp_path / "run")] == [
        line["loss"] for line in metrics(tmp_path / "whole")
    ]


@pytest.mark.habit("training", "resume with a few flags alone", "works")
@pytest.mark.slow
def test_what_is_not_typed_again_stays_as_the_run_has_it(book: Path, tmp_path: Path) -> None:
    pretrain(book, tmp_path, "--schedule", "constant", "--lr", 0.01, "--warmup-steps", 0, "--steps", 2)
    said = pretrain(book, tmp_path, "--steps", 3).stderr
    assert "lr is" not in said
    assert [line["lr"] for line in metrics(tmp_path)] == [0.01] * 3
    said = pretrain(book, tmp_path, "--steps", 5, "--lr", 0.002).stderr
    assert "lr is 0.002 from here on (it was 0.01)" in said
    assert [line["lr"] for line in metrics(tmp_path)] == [0.01] * 3 + [0.002] * 2
    pretrain(book, tmp_path, "--steps", 6)
    assert metrics(tmp_path)[-1]["lr"] == 0.002, "the change is the run's from now on"


@pytest.mark.habit("training", "resume with another --lr", "works")
def test_a_stopped_run_goes_on_at_another_rate(book: Path, tmp_path: Path) -> None:
    words = ["--schedule", "constant", "--warmup-steps", 0, "--steps", 4]
    pretrain(book, tmp_path, *words, "--lr", 0.01, "--max-minutes", 0.00001)
    pretrain(book, tmp_path, *words, "--lr", 0.02)
    assert [line["lr"] for line in metrics(tmp_path)] == [0.01] + [0.02] * 3


@pytest.mark.habit("training", "more --epochs on a finished fine-tuning", "works")
def test_more_epochs_make_a_fine_tuned_model_longer_and_its_adapter_is_merged_anew(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    finetune(model, chats, tmp_path, "--epochs", 1, "--val-fraction", 0)
    before = weights(tmp_path)
    said = finetune(model, chats, tmp_path, "--epochs", 2, "--val-fraction", 0).stderr
    assert "epochs is 2 from here on (it was 1)" in said
    assert "steps is 12 from here on (it was 6)" in said
    assert len(metrics(tmp_path)) == 12
    assert weights(tmp_path) != before
    finetune(model, chats, tmp_path, "--val-fraction", 0, "--no-merge")
    assert not (tmp_path / "model.safetensors").exists(), "it would be an older model than the adapter"
    ours, merged = open_model(tmp_path).weights, open_model(tmp_path / "checkpoints/step-00000012").weights
    assert all((ours[name].data == merged[name].data).all() for name in merged)


@pytest.mark.habit("training", "--steps below what is done", "pointer", "--steps above it, or another --out")
def test_a_run_cannot_be_made_shorter_than_it_is(book: Path, tmp_path: Path) -> None:
    pretrain(book, tmp_path, "--steps", 3)
    with pytest.raises(ConfigError, match=r"gone further than that(.|\n)*--steps above 3"):
        pretrain(book, tmp_path, "--steps", 2)


# --- the best step ----------------------------------------------------------------------------------------------------

WORSE = ["--steps", 12, "--lr", 0.5, "--schedule", "constant", "--warmup-steps", 0, "--eval-every", 1, "--keep", 1]


@pytest.mark.habit("training", "load_best_model_at_end: --keep-best", "works")
def test_the_best_step_is_kept_and_is_the_model(model: Path, chats: Path, tmp_path: Path) -> None:
    """At such a rate it is soon worse than at first."""
    said = finetune(model, chats, tmp_path, "--method", "full", "--val-fraction", 0.3, *WORSE, "--keep-best").stderr
    losses = [line["val_loss"] for line in metrics(tmp_path)]
    best = losses.index(min(losses)) + 1
    assert best < 12
    assert f"was that of step {best}" in said
    assert steps_of(tmp_path) == [best, 12], "it stays beside the latest"
    assert weights(tmp_path) == weights(tmp_path / f"checkpoints/step-{best:08d}")
    assert weights(tmp_path) != weights(tmp_path / "checkpoints/step-00000012")


@pytest.mark.habit("training", "EarlyStoppingCallback: --patience N", "works")
def test_it_ends_after_as_many_validations_as_it_was_to_bear_with(model: Path, chats: Path, tmp_path: Path) -> None:
    words = ["--method", "full", "--val-fraction", 0.3, *WORSE]
    said = finetune(model, chats, tmp_path, *words, "--patience", 2).stderr
    losses = [line["val_loss"] for line in metrics(tmp_path)]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 12
    assert f"ended after step {best + 2}: 2 validations in a row were no better" in said
    assert weights(tmp_path) == weights(tmp_path / f"checkpoints/step-{best:08d}")
    finetune(model, chats, tmp_path, *words, "--patience", 2)
    assert len(metrics(tmp_path)) == best + 2, "it is done"
    finetune(model, chats, tmp_path, *words, "--patience", 3)
    assert len(metrics(tmp_path)) == best + 3, "and goes on with more patience"


@pytest.mark.slow
def test_a_run_that_was_stopped_remembers_its_best(model: Path, chats: Path, tmp_path: Path) -> None:
    words = ["--method", "full", "--val-fraction", 0.3, *WORSE, "--keep-best", "-q"]
    finetune(model, chats, tmp_path / "whole", *words)
    for _ in range(12):
        finetune(model, chats, tmp_path / "parts", *words, "--max-minutes", 0.00001)
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


# --- the dtype of what is written -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow")
    AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16", device="cpu").save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.habit("training", "a tuned bfloat16 model stays bfloat16", "works")
@pytest.mark.habit("training", "finetune --out-dtype float16", "works")
def test_a_tuned_model_is_written_in_the_dtype_of_its_base(
    method: str, narrow: Path, model: Path, chats: Path, tmp_path: Path
) -> None:
    words = ["--method", method, "--steps", 2, "--val-fraction", 0]
    for base, dtype in ((narrow, "bfloat16"), (model, "float32")):
        said = finetune(base, chats, tmp_path / dtype, *words).stderr
        stored = SafetensorsFile(tmp_path / dtype / "model.safetensors")
        assert {array.dtype for _, array in stored.items()} == {dtype}
        assert json.loads((tmp_path / dtype / "config.json").read_text())["torch_dtype"] == dtype
        assert f"model.safetensors: {dtype}, " in said
    finetune(narrow, chats, tmp_path / "half", *words, "--out-dtype", "float16")
    assert AutoConfig.from_pretrained(tmp_path / "half").torch_dtype in ("float16", torch.float16)
    steps = SafetensorsFile(tmp_path / "bfloat16/checkpoints/step-00000002/training.safetensors")
    assert {array.dtype for name, array in steps.items() if "exp_avg" in name} == {"float32"}, "it learns in float32"


@pytest.mark.habit(
    "training",
    "LoRA on a quantized GGUF, merged",
    "differs",
    "bfloat16, and the sizes are said; --no-merge keeps the adapter alone",
)
def test_of_a_base_in_blocks_a_merged_model_is_bfloat16_and_its_size_is_said(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    pellucid("convert", model, tmp_path / "q8.gguf", "--quantize", "q8_0")
    words = ["--steps", 2, "--val-fraction", 0]
    said = finetune(tmp_path / "q8.gguf", chats, tmp_path / "run", *words).stderr
    assert SafetensorsFile(tmp_path / "run/model.safetensors")["model.embed_tokens.weight"].dtype == "bfloat16"
    assert "(the base, in blocks: " in said
    said = finetune(tmp_path / "q8.gguf", chats, tmp_path / "kept", *words, "--no-merge").stderr
    assert "adapter_model.safetensors: " in said


# --- as it stands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="lora"),
        pytest.param(["--method", "full"], id="full", marks=pytest.mark.slow),
        pytest.param(["--no-merge"], id="kept", marks=pytest.mark.slow),
    ],
)
@pytest.mark.habit("training", "chat -m RUN of a stopped fine-tuning", "works")
def test_a_stopped_runs_folder_runs_its_newest_step_and_says_so(
    words: list[object], model: Path, chats: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*words, "--steps", 4, "--val-fraction", 0, "--lr", 0.01]
    said = finetune(model, chats, run, *words, "--max-minutes", 0.00001).stderr
    assert f"until then pellucid generate -m {run} runs that step" in " ".join(said.split())
    finetune(model, chats, run, *words, "--max-minutes", 0.00001)
    assert steps_of(run) == [1, 2]
    typed = [sys.executable, "-m", "pellucid", "generate", "-m", run, "-p", "q1", "-n", "4", "--temp", "0", "-t", "1"]
    done = subprocess.run([*map(str, typed)], capture_output=True, text=True, check=True, timeout=120)
    assert f"{run}: a run that is not done: its newest step, 2" in " ".join(done.stderr.split())
    ids = torch.tensor([[5, 6, 7]])
    logits = [AutoModelForCausalLM.from_pretrained(path, device="cpu")(ids).logits for path in _folders(run)]
    assert torch.equal(logits[0], logits[1])
    assert AutoTokenizer.from_pretrained(run)("q1") == AutoTokenizer.from_pretrained(model)("q1")
    finetune(model, chats, run, *words)
    assert open_model(run).path == run, "a run that is done is its own model"


def _folders(run: Path) -> list[Path]:
    return [run, run / "checkpoints/step-00000002"]


def test_a_folder_that_only_looks_like_a_run_is_named_as_before(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    with pytest.raises(Exception, match="holds no weights"):
        open_model(tmp_path)
