"""A run's file of flags, its lock, and what it was begun with: hostile values, two runs at once, other data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import ConfigError, PellucidError
from pellucid.cli.app import app
from pellucid.cli.pretrain import command as pretrain
from pellucid.cli.runs.run_config import read_flags, write_yaml
from pellucid.families import FAMILIES
from pellucid.train.runs.lock import LOCK, BusyError, locked
from pellucid.train.runs.origins import FILE, Origins

SMALL = ["--tokenizer", "char", "--depth", 1, "--d-model", 16, "--num-heads", 2, "--context-len", 16]
SMALL += ["--batch-size", 4, "--warmup-steps", 1, "-t", 1, "--device", "cpu", "-q"]


def pellucid(*words: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text("To be, or not to be: that is the question.\n" * 60)
    return path


# --- the file of flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size:\n", "batch_size: there is no value"),
        ("depth: null\n", "depth: there is no value"),
        ("lr: [1]\n", r"lr: a value of the wrong kind \(expected a number, received list\)"),
        ("seed: 2001-99-99\n", "not valid YAML: month must be in 1..12"),
        ("seed: 2001-01-01\n", r"seed: a value of the wrong kind \(expected a number, received date\)"),
        ("tie: 1\n", r"tie: a value of the wrong kind \(expected true or false, received 1\)"),
        ("bf16: 'yes'\n", "bf16: a value of the wrong kind"),
        ("batch_size: 9999999999\n", "batch_size: 9999999999 is not in the range"),
        ("depth: 99999999\n", "depth: 99999999 is not in the range"),
        ("threads: 100000000\n", "threads: 100000000 is not in the range"),
        ("seed: 340282366920938463463374607431768211456\n", "seed: .* is not in the range"),
        ("batch_size: 2.5\n", "batch_size: '2.5' is not a valid"),
        ("batch_size: true\n", r"batch_size: a value of the wrong kind \(expected a number, received True\)"),
        ("lr: .nan\n", "lr: nan is no finite number"),
        ("lr: .inf\n", "lr: inf is no finite number"),
        ("lr: -1\n", "lr: -1.* is not in the range"),
        ("lr: fast\n", "lr: 'fast' is not a valid"),
        ("optimizer: sgd\n", "optimizer: 'sgd' is not one of"),
        ("optimizer: 3\n", "optimizer: a value of the wrong kind .*a text"),
        ("prompt: 2024\n", "prompt: a value of the wrong kind .*in quotes"),
        ("tokenizer: {a: b}\n", r"tokenizer: a value of the wrong kind .*received dict"),
        ('tokenizer: "a\\0b"\n', "tokenizer: a value of the wrong kind"),
        ("data: [a, 3]\n", r"data: a value of the wrong kind .*received 3"),
        ("lr: 0.1\nlr: 0.2\n", "line 1: 'lr' is there twice|'lr' is there twice"),
        ("batch_size: 4\nbatch-size: 8\n", "batch_size is there twice"),
        ("null: 3\n", "'None' is no flag of pretrain"),
        ("config: other.yaml\n", "'config' is no flag"),
        ("- lr\n", "expected a mapping of flags to values"),
        ("", "expected a mapping of flags to values"),
        ("lr: &a [*a]\n", "lr: a value of the wrong kind"),
        ("[" * 3000, "nested too deeply"),
        ("lr: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("a: &a [1]\nb: &b [*a,*a]\nlr: [*b,*b]\n", "'a' is no flag"),
    ],
)
def test_a_value_that_its_flag_does_not_take_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message) as error:
        pellucid("pretrain", "--config", tmp_path / "run.yaml")
    assert time.monotonic() - began < 2
    assert "run.yaml" in str(error.value)


def test_the_hostile_files_that_were_handed_over_are_one_clear_error_each(shared: Path, book: Path) -> None:
    files = sorted((shared.parent / "cases/hostile").glob("*.yaml"))
    if not files:
        pytest.skip(f"there are no files in {shared.parent / 'cases/hostile'}")
    for file in files:
        began = time.monotonic()
        with pytest.raises(ConfigError, match=file.name):
            pellucid("pretrain", "-d", book, "--config", file)
        assert time.monotonic() - began < 2


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([str(one.name) for one in pretrain.params if one.name != "config"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_whatever_a_file_says_its_flags_take_it_or_refuse_it(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    try:
        flags = read_flags(str(path), pretrain)
    except PellucidError:
        return
    by_name = {one.name: one for one in pretrain.params}
    for name, value in flags.items():  # what is taken is what the command line would have made of it
        for one in value if isinstance(value, list) else [value]:
            assert one is None or by_name[name].type.convert(one, None, None) == one


def test_every_flag_written_to_a_file_is_read_as_it_was(tmp_path: Path) -> None:
    values = {
        "data": ["a.txt", "b.txt"],
        "depth": 3,
        "lr": 1e-3,
        "tie": False,
        "bf16": True,
        "model_type": None,
        "tokenizer": "char",
        "text_field": None,
        "watch": None,
        "schedule": "wsd",
    }
    write_yaml(tmp_path / "run.yaml", values)
    assert read_flags(str(tmp_path / "run.yaml"), pretrain) == values


def test_sizes_beyond_all_memory_are_refused_before_anything_is_made(book: Path, tmp_path: Path) -> None:
    words = ["pretrain", "-d", book, "-q", "--device", "cpu", "-t", 1, "-o", tmp_path / "run"]
    with pytest.raises(ConfigError, match=r"more than any memory holds(.|\n)*--batch-size times --context-len"):
        pellucid(*words, "--batch-size", 10**6, "--context-len", 10**5)
    with pytest.raises(ConfigError, match="the model is too large to be trained here"):
        pellucid(*words, "--tokenizer", "char", "--depth", 1000, "--d-model", 2**16)
    with pytest.raises(ConfigError, match="too many experts"):
        pellucid(*words, "--tokenizer", "char", "--depth", 1000, "--num-experts", 10_000, "--model-type", "mixtral")


# --- one run a folder ------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder_are_one_and_an_error_that_names_the_other(book: Path, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BusyError, match=rf"another process trains here.*process {os.getpid()} on"):
        pellucid("pretrain", "-d", book, *SMALL, "--steps", 1, "-o", tmp_path)
    pellucid("pretrain", "-d", book, *SMALL, "--steps", 1, "-o", tmp_path)


def test_a_lock_dies_with_its_process_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom pellucid.train.runs.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=f"process {other.pid}"), locked(tmp_path):
        pass
    other.kill()
    other.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_overwrite_removes_a_run_and_nothing_else(book: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("dear")
    words = ["pretrain", "-d", book, *SMALL, "--steps", 1, "--overwrite"]
    with pytest.raises(ConfigError, match=r"holds none(.|\n)*mine\.txt"):
        pellucid(*words, "-o", tmp_path / "letters")
    assert (tmp_path / "letters/mine.txt").read_text() == "dear"
    pellucid(*words, "-o", tmp_path / "run")
    pellucid(*words, "-o", tmp_path / "run")


# --- what a run was begun with ----------------------------------------------------------------------------------------


def test_a_run_goes_on_with_the_data_it_was_begun_with_alone(book: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(book.read_text())
    (tmp_path / "b.txt").write_text(book.read_text()[:500])
    words = ["pretrain", "-d", tmp_path, *SMALL, "--steps", 2, "-o", tmp_path / "run"]
    pellucid(*words)
    pellucid(*words)
    (tmp_path / "b.txt").write_text(book.read_text()[:501])
    with pytest.raises(
        ConfigError, match=r"begun with something else: \S+b\.txt was 500 bytes, sha256 \w+…, and is 501 bytes"
    ):
        pellucid(*words)
    (tmp_path / "b.txt").write_text(book.read_text()[:499] + "#")
    with pytest.raises(ConfigError, match=r"b\.txt was 500 bytes, .*and is 500 bytes"):
        pellucid(*words)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(ConfigError, match=r"b\.txt is gone from the data"):
        pellucid(*words)
    (tmp_path / "b.txt").write_text(book.read_text()[:500])
    (tmp_path / "c.txt").write_text("new")
    with pytest.raises(ConfigError, match=r"c\.txt is new in the data"):
        pellucid(*words)
    (tmp_path / "c.txt").unlink()
    pellucid(*words)


def test_a_fine_tuning_goes_on_with_its_base_model_alone(shared: Path, tmp_path: Path) -> None:
    tiny = {**FAMILIES["qwen2"].TINY, "vocab_size": 6400}
    tokenizer = AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")

    def save(seed: int) -> None:
        AutoModelForCausalLM.from_config(tiny, seed=seed, device="cpu").save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")

    save(0)
    (tmp_path / "data.jsonl").write_text('{"instruction": "Who?", "output": "Ada."}\n' * 4)
    words = ["finetune", "-m", tmp_path / "base", "-d", tmp_path / "data.jsonl", "-o", tmp_path / "run", "-q"]
    words += ["--steps", 2, "--no-merge", "--device", "cpu", "-t", 1, "--val-fraction", 0]
    pellucid(*words)
    pellucid(*words)
    weights = (tmp_path / "base/model.safetensors").read_bytes()
    with open(tmp_path / "base/model.safetensors", "r+b") as file:  # one number, far from any tensor's beginning
        file.seek(len(weights) - 7)
        file.write(b"\x01\x02")
    with pytest.raises(ConfigError, match=r"the base model's model\.safetensors was sha256 \w+…, and is sha256"):
        pellucid(*words)
    save(0)
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    with pytest.raises(ConfigError, match="the base model's config was"):
        pellucid(*words)
    save(0)
    template = tmp_path / "base/chat_template.jinja"
    template.write_text(template.read_text() + "{# other #}" if template.is_file() else "{{ messages }}")
    with pytest.raises(ConfigError, match=r"the (chat template|tokenizer) was"):
        pellucid(*words)


def test_a_run_from_before_origins_were_kept_goes_on_and_keeps_them(book: Path, tmp_path: Path) -> None:
    words = ["pretrain", "-d", book, *SMALL, "--steps", 2, "-o", tmp_path / "run"]
    pellucid(*words)
    (tmp_path / "run" / FILE).unlink()
    pellucid(*words)
    assert (tmp_path / "run" / FILE).is_file()
    (tmp_path / "run" / FILE).write_text('{"data": 3}')
    with pytest.raises(PellucidError, match="does not say what the run was begun with"):
        pellucid(*words)


def test_origins_that_come_in_another_order_are_others() -> None:
    one, two = Origins.of([Path(__file__), Path(yaml.__file__)], {}).data
    assert Origins((one, two)).changes(Origins((two, one))) == ["the data come in another order"]
    assert Origins((one,)).changes(Origins((one,))) == []
    assert Origins((), {"the tokenizer": "a" * 64}).changes(Origins(())) == [
        "the tokenizer was sha256 aaaaaaaaaaaa…, and is none"
    ]
