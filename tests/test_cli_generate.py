"""``pellucid generate``, as a person runs it, on stories260K."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def generate(model: Path, *arguments: object, stdin: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pellucid", "generate", "-m", str(model), *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    assert result.returncode == status, result.stderr.decode()
    return subprocess.CompletedProcess(command, status, result.stdout.decode(), result.stderr.decode())


@pytest.fixture(scope="module")
def model(stories: Path) -> Path:
    return stories / "stories260K.bin"


@pytest.fixture(scope="module")
def published(stories: Path) -> str:
    """The greedy text that llama2.c's author published: 256 tokens after BOS."""
    return (stories / "greedy_257.txt").read_text()


def test_without_a_prompt_the_published_text_is_written(model: Path, published: str) -> None:
    result = generate(model)
    assert result.stdout == published + "\n"
    assert "256 tokens" in result.stderr


def test_torch_writes_the_published_text_too(model: Path, published: str) -> None:
    text = generate(model, "--executor", "torch", "-n", 64).stdout.removesuffix("\n")
    assert len(text) > 100
    assert published.startswith(text)


@pytest.mark.habit("shell", "generate -q", "works")
def test_quiet_leaves_only_the_text(model: Path) -> None:
    result = generate(model, "-q", "-n", 5, "-p", "Once upon a time")
    assert result.stderr == ""
    assert result.stdout.strip()


@pytest.mark.habit("shell", "generate --json", "works")
def test_json_tells_all_about_an_answer(model: Path, published: str) -> None:
    answer = json.loads(generate(model, "--json", "-n", 20).stdout)
    assert published.startswith(answer["text"])
    assert len(answer["token_ids"]) == answer["timings"]["new_tokens"] == 20
    assert (answer["prompt"], answer["finish_reason"], answer["stopped_by"]) == ("", "length", None)
    assert answer["timings"]["decode_tokens_per_second"] > 0


@pytest.mark.habit("shell", "--draft NAME (speculative decoding)", "works")
@pytest.mark.parametrize(
    "sampling", [(), ("--temperature", 1, "--seed", 3, "--repeat-penalty", 1.1)], ids=["greedy", "drawn"]
)
def test_a_draft_that_is_the_model_itself_guesses_right_and_changes_nothing(
    model: Path, sampling: tuple[object, ...]
) -> None:
    plain = json.loads(generate(model, "--json", "-n", 60, *sampling).stdout)
    draft = json.loads(generate(model, "--json", "-n", 60, *sampling, "--draft", model).stdout)
    assert draft["token_ids"] == plain["token_ids"]
    assert draft["timings"]["accepted_tokens"] == draft["timings"]["guessed_tokens"] > 40
    assert plain["timings"]["guessed_tokens"] == 0


@pytest.mark.habit("shell", "--prompt-lookup N", "works")
def test_lookup_changes_nothing(model: Path) -> None:
    options = ("--json", "-n", 60, "-p", "Lily had a red ball. Lily had a red ball. Lily had")
    plain, guessed = (json.loads(generate(model, *options, *more).stdout) for more in ((), ("--prompt-lookup", 8)))
    assert guessed["token_ids"] == plain["token_ids"]
    assert guessed["timings"]["guessed_tokens"] > 0


def test_a_draft_with_another_vocabulary_is_refused_by_its_first_other_token(
    model: Path, stories: Path, tmp_path: Path
) -> None:
    shutil.copy(model, tmp_path)
    words = (stories / "tok512.bin").read_bytes()
    (tmp_path / "tok512.bin").write_bytes(words.replace(b" the", b" eht"))
    result = generate(model, "-p", "x", "--draft", tmp_path / model.name, status=2)
    assert "another vocabulary" in result.stderr
    assert "(expected '▁the', received '▁eht')" in result.stderr


@pytest.mark.habit("shell", "generate --prompts FILE", "works", "one a line, or JSON lines")
def test_many_prompts_are_answered_as_each_alone(model: Path, tmp_path: Path) -> None:
    prompts = ["Once upon a time", "Lily", "The big red ball was", "", "Tom and his dog went to the park. They"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    together = [json.loads(line) for line in generate(model, "--json", "-n", 24, "--prompts", file).stdout.splitlines()]
    assert [answer["prompt"] for answer in together] == prompts
    for answer in together:
        alone = json.loads(generate(model, "--json", "-n", 24, "-p", answer["prompt"]).stdout)
        assert answer["token_ids"] == alone["token_ids"]


def test_prompts_come_from_standard_input_one_a_line(model: Path) -> None:
    result = generate(model, "--prompts", "-", "-n", 4, stdin=b"Once upon a time\n\nLily\r\n")
    assert result.stdout.count("\n") >= 3, "two answers, and an empty line between them"
    assert "1. Once upon a time" in result.stderr
    assert "2. Lily\n" in result.stderr


def test_a_stop_string_ends_the_text_before_it(model: Path) -> None:
    answer = json.loads(generate(model, "--json", "--stop", "Lily").stdout)
    assert answer["text"] == "Once upon a time, there was a little girl named "
    assert (answer["finish_reason"], answer["stopped_by"]) == ("stop", "Lily")


@pytest.mark.habit("shell", "--seed 7", "works")
def test_the_same_seed_draws_the_same_text(model: Path) -> None:
    drawn = [generate(model, "-q", "-n", 32, "--temperature", 1, "--seed", seed).stdout for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["-c", 4, "-p", "Once upon a time there was"], b"", "with a context of 4"),
        (["-n", 600], b"", "expected at most 512 together"),
        (["--chat", "-p", "Hi"], b"", "no chat template"),
        (["-p", "x", "--prompts", "-"], b"", "exclude each other"),
        (["--draft", "x", "--prompt-lookup", 3], b"", "exclude each other"),
        (["--prompts", "-"], b"\n \n", "there is no prompt"),
        (["--prompts", "-"], b"caf\xe9\n", "not UTF-8 at byte 3"),
        (["--prompts", "-"], b'{"prompt": "a"}\n{"text": "b"}\n', "standard input, line 2: no prompt in this line"),
        (["--prompts", "-"], b'{"prompt": "a"}\n{"prompt"\n', "line 2: not valid JSON"),
        (
            ["--prompts", "-", "-c", 8],
            b"Lily\nOnce upon a time there was a little girl named Lily\n",
            "prompt 2: the prompt leaves no room",
        ),
        (["--prompts", "/nowhere/at/all"], b"", "the prompts cannot be read: No such file or directory"),
        (["--device", "cuda:99", "-p", "x"], b"", "the device 'cuda:99' cannot be used"),
    ],
)
def test_bad_input_is_explained(model: Path, arguments: list[object], stdin: bytes, message: str) -> None:
    result = generate(model, *arguments, stdin=stdin, status=2)
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.habit("shell", "--chat-template FILE", "works")
def test_a_template_file_makes_a_chat_of_it(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "story.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    chat = json.loads(generate(model, "--json", "-n", 8, "--chat-template", template, "-p", "Once upon a time").stdout)
    raw = json.loads(generate(model, "--json", "-n", 8, "-p", "Once upon a time").stdout)
    assert chat["timings"]["prompt_tokens"] == raw["timings"]["prompt_tokens"] - 1, (
        "a template writes its own BOS, or none"
    )
