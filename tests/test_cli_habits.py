"""What hands know from Ollama, llama.cpp and mlx-lm: pipes, words without flags, other spellings, chat's commands."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from option_walk import make_model

from pellucid.cli.app import ELSEWHERE

FAST = ["--executor", "torch", "--temp", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


def pellucid(*words: object, stdin: bytes | None = None, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pellucid", *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr.decode()
    return done


def prompt(*words: object, stdin: bytes | None = b"") -> str:
    """The prompt as the model was asked it."""
    return json.loads(pellucid("generate", *words, *FAST, "-n", "1", "--json", stdin=stdin).stdout)["prompt"]


# --- where a prompt comes from ----------------------------------------------------------------------------------------


def test_what_is_piped_in_is_the_prompt(model: Path) -> None:
    assert prompt("-m", model, stdin=b"abc\n") == "abc"
    assert prompt("-m", model, "-p", "-", stdin=b"abc\ndef\n") == "abc\ndef"


def test_what_is_piped_in_comes_after_what_is_typed(model: Path) -> None:
    assert prompt("-m", model, "-p", "sum up:", stdin=b"abc\n") == "sum up:\nabc"
    assert prompt("-m", model, "sum", "up:", stdin=b"abc\n") == "sum up:\nabc"


def test_a_file_is_a_prompt_or_comes_after_one(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abc\n")
    assert prompt("-m", model, "-f", tmp_path / "text") == "abc"
    assert prompt("-m", model, "-p", "x", "-f", tmp_path / "text") == "x\nabc"


def test_a_byte_order_mark_is_no_part_of_the_prompt(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfabc")
    assert prompt("-m", model, stdin=b"\xef\xbb\xbfabc\n") == "abc"
    assert prompt("-m", model, "-f", tmp_path / "text") == "abc"


def test_nothing_piped_in_changes_nothing(model: Path) -> None:
    assert prompt("-m", model, "abc", stdin=b"") == "abc"


def test_a_prompt_that_is_given_twice_is_refused(model: Path) -> None:
    assert b"given twice" in pellucid("generate", "-m", model, "-p", "a", "b", status=2).stderr


# --- other spellings --------------------------------------------------------------------------------------------------


def test_minus_one_is_as_many_as_fit(model: Path) -> None:
    words = ("generate", "-m", model, "-p", "abc", *FAST, "-c", "20", "-n", "-1", "--json")
    answer = json.loads(pellucid(*words, stdin=b"").stdout)
    assert answer["finish_reason"] == "stop" or len(answer["token_ids"]) == 17
    assert b"1 or more, or -1" in pellucid("generate", "-m", model, "-n", "0", status=2).stderr


def test_a_stop_text_understands_escapes(model: Path) -> None:
    words = ("generate", "-m", model, "-p", "abc", *FAST, "-n", "40", "-q")
    whole = pellucid(*words, stdin=b"").stdout.decode()
    assert pellucid(*words, "--stop", "\\n", stdin=b"").stdout.decode().rstrip("\n") == whole.partition("\n")[0]
    assert pellucid(*words, "--max-tokens", "3", stdin=b"").stdout.decode().strip("\n") in whole


@pytest.mark.parametrize("command", ELSEWHERE)
def test_a_command_of_another_program_says_where_the_idea_lives(command: str) -> None:
    assert ELSEWHERE[command][:40].encode() in pellucid(command, "x", status=2).stderr.replace(b"\n", b" ")


def test_run_answers_a_prompt_or_goes_on_with_a_text(model: Path) -> None:
    words = (model, "abc", *FAST, "-n", "4", "-q")
    chat = pellucid("run", *words, stdin=b"").stdout
    assert chat == pellucid("generate", "--chat", "-m", *words, stdin=b"").stdout
    assert chat == pellucid("run", model, *FAST, "-n", "4", "-q", stdin=b"abc\n").stdout
    raw = pellucid("run", "tiny", "Once upon", *FAST, "-n", "4", "-q", stdin=b"").stdout
    assert raw == pellucid("generate", "-m", "tiny", "Once upon", *FAST, "-n", "4", "-q", stdin=b"").stdout


# --- chat -------------------------------------------------------------------------------------------------------------


def talk(model: Path, *lines: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    words = ("chat", "-m", model, *FAST, "-n", "3")
    return pellucid(*words, stdin="".join(f"{line}\n" for line in lines).encode(), status=status)


def said(path: Path) -> list[str]:
    return [message["content"] for message in json.loads(path.read_text())["messages"]]


def test_a_message_of_many_lines(model: Path, tmp_path: Path) -> None:
    talk(model, '"""', "one", "two", '"""', '"""three"""', f"/save {tmp_path / 's'}")
    assert said(tmp_path / "s")[::2] == ["one\ntwo", "three"]


def test_undo_regenerate_and_clear(model: Path, tmp_path: Path) -> None:
    talk(model, "one", "two", "/undo", f"/save {tmp_path / 'a'}", "/regenerate", f"/save {tmp_path / 'b'}")
    assert said(tmp_path / "a") == said(tmp_path / "b")
    assert said(tmp_path / "a")[0] == "one"
    talk(model, "one", "/clear", "two", f"/save {tmp_path / 'c'}")
    assert said(tmp_path / "c")[::2] == ["two"]
    assert b"nothing has been said yet" in talk(model, "/undo").stderr
    assert b"nothing has been said yet" in talk(model, "/regenerate").stderr


def test_settings_are_shown_and_set(model: Path) -> None:
    told = talk(model, "/set", "/set temperature 0.25", "/set parameter num_predict 1", "hello").stderr.decode()
    assert "temperature 0.0" in told
    assert "temperature 0.25" in told
    assert "answer 1 token" in told
    assert "there is no setting 'warmth'" in talk(model, "/set warmth 3").stderr.decode()
    assert "temperature is a number" in talk(model, "/set temperature hot").stderr.decode()


def test_a_conversation_is_loaded_and_goes_on_with_another_model(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    talk(model, "one", f"/save {tmp_path / 's'}")
    told = talk(model, f"/load {tmp_path / 's'}", f"/model {other}", "/model", "two", f"/save {tmp_path / 't'}")
    assert said(tmp_path / "t")[:2] == said(tmp_path / "s")
    assert said(tmp_path / "t")[2] == "two"
    assert f"{other} answers now" in told.stderr.decode()
    assert b"there is no conversation" in talk(model, f"/load {model / 'config.json'}").stderr
    assert b"no/such/folder/at/all" in talk(model, "/model no/such/folder/at/all", f"/save {tmp_path / 'u'}").stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a pty is Unix's")
def test_a_saved_conversation_is_asked_about_and_the_history_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    parent, child = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb"}
    command = [sys.executable, "-m", "pellucid", "chat", "-m", str(model), *FAST, "-n", "1"]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment, close_fds=True)
    os.close(child)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(parent, 4096)
        seen = b""

    wait_for(b"> ")
    os.write(parent, f"/save {tmp_path / 's'}\n".encode())
    wait_for(b"[y/N]")
    os.write(parent, b"n\n")
    wait_for(b"Nothing was written")
    os.write(parent, b"/exit\n")
    assert process.wait(60) == 0
    assert (tmp_path / "s").read_text() == "mine"
    assert "/exit" in (tmp_path / "state" / "pellucid" / "history").read_text()
