"""The option walk of what trains: every option of pretrain and finetune changes what it names, or is refused where it
would change nothing. (evaluate's is in test_train_scoring.)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import PellucidError, RequestError
from pellucid.checkpoint.safetensors import SafetensorsFile
from pellucid.cli import finetune, pretrain
from pellucid.cli.app import app
from pellucid.families import FAMILIES

Words = list[Any]


@dataclass
class Outcome:
    """What a run left and said."""

    folder: Path
    error: BaseException | None
    said: str
    metrics: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics]

    @property
    def weights(self) -> dict[str, bytes]:
        (file,) = self.folder.glob("*model.safetensors")
        return {name: array.data.tobytes() for name, array in SafetensorsFile(file).items()}

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def files(self) -> list[str]:
        return sorted(str(one.relative_to(self.folder)) for one in self.folder.rglob("*") if one.is_file())


def launch(command: str, words: Words, out: Path) -> Outcome:
    arguments = [command, *words, *([] if "-o" in words else ["-o", out])]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    error = result.exception if not isinstance(result.exception, SystemExit) else None
    outcome = Outcome(out, error, result.stdout + result.stderr)
    if (out / "metrics.jsonl").is_file():
        outcome.metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if (out / "run.yaml").is_file():
        outcome.flags = yaml.safe_load((out / "run.yaml").read_text())
    return outcome


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


Differs = Callable[[Outcome, Outcome], bool]
losses: Differs = lambda a, b: a.losses != b.losses  # noqa: E731
weights: Differs = lambda a, b: a.weights != b.weights  # noqa: E731
config: Differs = lambda a, b: a.config != b.config  # noqa: E731
files: Differs = lambda a, b: a.files != b.files  # noqa: E731
said: Differs = lambda a, b: re.sub(r"\S*/\S*|[\d.,]+", "", a.said) != re.sub(r"\S*/\S*|[\d.,]+", "", b.said)  # noqa: E731


def figures(name: str) -> Differs:
    return lambda a, b: [line.get(name) for line in a.metrics] != [line.get(name) for line in b.metrics]


def flag(name: str) -> Differs:
    """Where what it does cannot be seen on a CPU in seconds: it is there, where the run reads it."""
    return lambda a, b: a.flags.get(name) != b.flags.get(name)


# Option → (what is typed, on top of what, what must be another thing). {D} is the folder of data.
TRAINING: dict[str, tuple[Words, Words, Differs]] = {
    "config": (["--config", "{D}/run.yaml"], [], losses),
    "steps": (["--steps", 2], [], losses),
    "batch_size": (["--batch-size", 3], [], losses),
    "micro_batch_size": (["--micro-batch-size", 1], [], flag("micro_batch_size")),
    "optimizer": (["--optimizer", "muon"], [], weights),
    "lr": (["--lr", 0.02], [], weights),
    "schedule": (["--schedule", "constant"], [], weights),
    "warmup_steps": (["--warmup-steps", 2], [], weights),
    "final_fraction": (["--final-fraction", 0.9], [], weights),
    "weight_decay": (["--weight-decay", 0.7], [], weights),
    "beta1": (["--beta1", 0.5], [], weights),
    "beta2": (["--beta2", 0.5], [], weights),
    "max_grad_norm": (["--max-grad-norm", 0.01], [], weights),
    "z_loss": (["--z-loss", 0.1], [], weights),
    "dropout": (["--dropout", 0.5], [], losses),
    "attention_dropout": (["--attention-dropout", 0.5], [], losses),
    "bf16": (["--bf16"], [], losses),
    "compiled": (["--compile"], [], flag("compiled")),
    "checkpoint_activations": (["--checkpoint-activations"], [], flag("checkpoint_activations")),
    "deterministic": (["--deterministic"], [], flag("deterministic")),
    "seed": (["--seed", 5], [], losses),
    "on_trouble": (["--on-trouble", "skip"], [], flag("on_trouble")),
    "max_minutes": (["--max-minutes", 1e-9], [], losses),
    "out": (["-o", "{D}/elsewhere"], [], files),
    "eval_every": (["--eval-every", 1], [], figures("val_loss")),
    "eval_rows": (["--eval-rows", 1], ["--val-fraction", 0.5], figures("val_loss")),
    "save_every": (["--save-every", 1, "--keep", 0], ["--keep", 0], files),
    "keep": (["--keep", 0], ["--save-every", 1], files),
    "sample_every": (["--sample-every", 0], ["--sample-every", 1], files),
    "record_every": (["--record-every", 0], ["--record-every", 1], files),
    "watch": (["--watch"], ["-no-q"], said),
    "tensorboard": (["--tensorboard"], [], files),
    "prompt": (["-p", "It"], ["--sample-every", 1, "-no-q"], said),
    "device": (["--device", "abacus"], [], lambda a, b: "abacus" in str(a.error)),
    "threads": (["-t", 2], [], flag("threads")),
    "overwrite": (["--overwrite"], [], lambda a, b: True),  # see test_train_files
    "preview": (["--preview"], [], files),
    "quiet": (["-q"], ["-no-q"], said),
}
PRETRAIN = {
    **TRAINING,
    "data": (["-d", "{D}/chats.jsonl", "--text-field", "output"], [], losses),
    "tokenizer": (["--tokenizer", "bpe", "--vocab-size", 300], [], config),
    "vocab_size": (["--vocab-size", 260], ["--tokenizer", "bpe"], config),
    "text_field": (["--text-field", "body"], ["-d", "{D}/book.jsonl"], losses),
    "separator": (["--separator", "--"], [], losses),
    "val_fraction": (["--val-fraction", 0.4], [], losses),
    "mask_documents": (["--mix-documents"], ["--separator", "--"], losses),
    "depth": (["--depth", 2], [], config),
    "model_type": (["--model-type", "gpt2"], [], config),
    "d_model": (["--d-model", 32], [], config),
    "num_heads": (["--num-heads", 4], [], config),
    "num_kv_heads": (["--num-kv-heads", 1], [], config),
    "d_ff": (["--d-ff", 20], [], config),
    "num_experts": (["--num-experts", 3], ["--model-type", "mixtral"], config),
    "experts_per_token": (["--experts-per-token", 1], ["--model-type", "mixtral"], config),
    "balance": (["--balance", 3], ["--model-type", "mixtral"], weights),
    "context_len": (["--context-len", 8], [], config),
    "tie": (["--untie"], [], config),
}
FINETUNE = {
    **TRAINING,
    "model": (["-m", "{D}/other"], [], losses),
    "offline": (["--offline", "-m", "nobody/nothing"], [], lambda a, b: "offline" in str(a.error).lower()),
    "data": (["-d", "{D}/book.jsonl"], [], losses),
    "fill": (["--fill", "who=Ada"], [], losses),
    "chat_template": (["--chat-template", "{D}/template.jinja"], [], losses),
    "context_len": (["--context-len", 12], [], losses),
    "on_too_long": (["--on-too-long", "stop"], ["--context-len", 29], lambda a, b: "longer than" in str(a.error)),
    "pack": (["--pack"], [], losses),
    "val_fraction": (["--val-fraction", 0.5], [], losses),
    "method": (["--method", "full"], [], weights),
    "lora_rank": (["--lora-rank", 2], ["--no-merge"], weights),
    "lora_alpha": (["--lora-alpha", 99], ["--no-merge"], weights),
    "lora_targets": (["--lora-targets", "q_proj"], ["--no-merge"], weights),
    "lora_dropout": (["--lora-dropout", 0.6], ["--no-merge"], weights),
    "merge": (["--no-merge"], [], files),
    "quantize": (["--quantize", "q4"], [], losses),
    "beta": (["--beta", 5], ["-d", "{D}/pairs.jsonl", "--method", "dpo"], losses),
    "epochs": (["--epochs", 0.3], ["-no-steps"], losses),
}
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


# Shown by tests of their own: test_train_files, below, test_train_compile.
ELSEWHERE = ("overwrite", "config", "compiled")
WALK = [
    pytest.param(command, name, id=f"{command} {name}")
    for command, table in (("pretrain", PRETRAIN), ("finetune", FINETUNE))
    for name in table
    if name not in ELSEWHERE
]


def test_the_walk_knows_every_option() -> None:
    for table, command in ((PRETRAIN, pretrain.command), (FINETUNE, finetune.command)):
        assert table.keys() == {one.name for one in command.params}


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[Any, ...], Outcome]:
    """Of what lies beneath, so that each is run once."""
    return {}


@pytest.mark.parametrize(("command", "name"), WALK)
def test_the_option_changes_what_it_names(
    command: str, name: str, data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, outcomes: Any
) -> None:
    typed, beneath, differs = (PRETRAIN if command == "pretrain" else FINETUNE)[name]
    without = words_of(command, [], beneath, data)
    if name == "data":
        without = words_of(command, DATA[command], beneath, data)
    key = (command, *map(str, without))
    if key not in outcomes:
        outcomes[key] = launch(command, without, tmp_path_factory.mktemp("without") / "run")
        assert outcomes[key].error is None, outcomes[key].error
    outcome = launch(command, words_of(command, typed, beneath, data), tmp_path / "run")
    assert isinstance(outcome.error, PellucidError | None), outcome.error
    assert differs(outcome, outcomes[key])


def test_a_files_flags_reach_the_run_and_typed_ones_win(data: Path, tmp_path: Path) -> None:
    words = [word for word in words_of("pretrain", [], [], data) if word not in ("--lr", 0.01)]
    assert launch("pretrain", [*words, "--config", data / "run.yaml"], tmp_path / "a").flags["lr"] == 0.5
    typed = [*words, "--config", data / "run.yaml", "--lr", 0.25]
    assert launch("pretrain", typed, tmp_path / "b").flags["lr"] == 0.25


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
        ("finetune", ["--beta", 0.2]),
        ("finetune", ["-d", "{D}/pairs.jsonl", "--method", "dpo", "--z-loss", 0.1]),
        ("finetune", ["--steps", 3, "--epochs", 2]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value)),
)
def test_an_option_that_would_change_nothing_is_refused(command: str, words: Words, data: Path, tmp_path: Path) -> None:
    outcome = launch(command, words_of(command, words, [], data), tmp_path / "run")
    assert isinstance(outcome.error, RequestError), outcome.error
    assert "has no effect here" in str(outcome.error)
    assert not os.path.exists(tmp_path / "run/metrics.jsonl")
