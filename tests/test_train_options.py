"""An option of pretrain or finetune that would change nothing is refused. (That each changes what it names elsewhere:
test_cli_options_training.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import RequestError
from pellucid.cli.app import app
from pellucid.families import FAMILIES

Words = list[Any]


def launch(command: str, words: Words, out: Path) -> BaseException | None:
    """The error that the command ended with, if it did."""
    result = CliRunner().invoke(app, list(map(str, [command, *words, "-o", out])))
    return result.exception if not isinstance(result.exception, SystemExit) else None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "book.txt").write_text("To be, or not to be.\n--\nThat is the question, is it not?\n" * 40)
    (folder / "book.jsonl").write_text(
        "".join(json.dumps({"text": f"line {n}", "body": "no"}) + "\n" for n in range(90))
    )
    (folder / "chats.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Say {n}.", "output": f"{{{{who}}}} says {n}."}) + "\n" for n in range(12))
    )
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}:", "chosen": " yes", "rejected": " no"}) + "\n" for n in range(12))
    )
    (folder / "run.yaml").write_text("lr: 0.5\n")
    (folder / "template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}!\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant!\n{% endif %}"
    )
    tiny = {**FAMILIES["qwen2"].TINY, "vocab_size": 6400}
    AutoModelForCausalLM.from_config(tiny, seed=0, device="cpu").save_pretrained(folder / "model")
    AutoModelForCausalLM.from_config(tiny, seed=1, device="cpu").save_pretrained(folder / "other")
    for name in ("model", "other"):
        AutoTokenizer.from_pretrained(shared / "minimind_tokenizer").save_pretrained(folder / name)
    return folder


QUICK: Words = ["--lr", 0.01, "--warmup-steps", 1, "-t", 1, "--batch-size", 2]
BASE: dict[str, Words] = {
    "pretrain": [
        *("--tokenizer", "char", "--depth", 1, "--d-model", 16, "--num-heads", 2, "--context-len", 16, *QUICK),
    ],
    "finetune": ["-m", "{D}/model", *QUICK],
}
DATA: dict[str, Words] = {"pretrain": ["-d", "{D}/book.txt"], "finetune": ["-d", "{D}/chats.jsonl"]}


def words_of(command: str, typed: Words, beneath: Words, data: Path) -> Words:
    """The base's words, what lies beneath, what is typed: of two that say the same, the later counts."""
    words = [*BASE[command], *([] if "-d" in (*typed, *beneath) else DATA[command])]
    words += [] if "-no-steps" in beneath or "--steps" in typed else ["--steps", 3]
    words += [] if "-no-q" in beneath or "-q" in typed else ["-q"]
    words += [] if "--device" in typed else ["--device", "cpu"]
    words += ["--sample-every", 0] if "--sample-every" not in (*typed, *beneath) else []
    words += [word for word in (*beneath, *typed) if word not in ("-no-steps", "-no-q")]
    return [word.replace("{D}", str(data)) if isinstance(word, str) else word for word in words]


def test_a_files_flags_reach_the_run_and_typed_ones_win(data: Path, tmp_path: Path) -> None:
    words = [word for word in words_of("pretrain", [], [], data) if word not in ("--lr", 0.01)]
    for typed, lr in (([], 0.5), (["--lr", 0.25], 0.25)):
        assert launch("pretrain", [*words, "--config", data / "run.yaml", *typed], tmp_path / str(lr)) is None
        assert yaml.safe_load((tmp_path / str(lr) / "run.yaml").read_text())["lr"] == lr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pretrain", ["--tokenizer", "char", "--vocab-size", 300]),
        ("pretrain", ["--text-field", "text"]),
        ("pretrain", ["-d", "{D}/book.jsonl", "--separator", "--"]),
        ("pretrain", ["--balance", 1]),
        ("pretrain", ["--schedule", "constant", "--final-fraction", 0.1]),
        ("pretrain", ["--val-fraction", 0, "--eval-rows", 8]),
        ("pretrain", ["--val-fraction", 0, "--eval-every", 8]),
        ("pretrain", ["--sample-every", 0, "-p", "To"]),
        ("finetune", ["--method", "full", "--lora-rank", 4]),
        ("finetune", ["--method", "full", "--lora-alpha", 4]),
        ("finetune", ["--method", "full", "--lora-targets", "q_proj"]),
        ("finetune", ["--method", "full", "--lora-dropout", 0.1]),
        ("finetune", ["--method", "full", "--no-merge"]),
        ("finetune", ["--method", "full", "--dora"]),
        ("finetune", ["--method", "dpo-full", "-d", "{D}/pairs.jsonl", "--rslora"]),
        ("finetune", ["--method", "full", "--modules-to-save", "lm_head"]),
        ("finetune", ["--beta", 0.2]),
        ("finetune", ["-d", "{D}/pairs.jsonl", "--method", "dpo", "--gamma", 0.5]),
        ("finetune", ["-d", "{D}/pairs.jsonl", "--method", "orpo", "--good-weight", 2]),
        ("finetune", ["-d", "{D}/pairs.jsonl", "--method", "simpo", "--bad-weight", 2]),
        ("finetune", ["--no-merge", "--out-dtype", "float16"]),
        ("finetune", ["--val-fraction", 0, "--keep-best"]),
        ("finetune", ["--eval-every", 0, "--patience", 2]),
        ("finetune", ["-d", "{D}/pairs.jsonl", "--method", "dpo", "--z-loss", 0.1]),
        ("finetune", ["--steps", 3, "--epochs", 2]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value)),
)
def test_an_option_that_would_change_nothing_is_refused(command: str, words: Words, data: Path, tmp_path: Path) -> None:
    error = launch(command, words_of(command, words, [], data), tmp_path / "run")
    assert isinstance(error, RequestError), error
    assert "has no effect here" in str(error)
    assert not (tmp_path / "run/metrics.jsonl").exists()
