"""``pellucid chat``: piped in, and at a terminal (a pty) with Ctrl-C and Ctrl-D. stories260K, with a template of our
own.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.native.build import compiler

TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"


@pytest.fixture
def chat(stories: Path, tmp_path: Path) -> list[str]:
    """The command, complete but for further flags."""
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    model, template = stories / "stories260K.bin", tmp_path / "chat.jinja"
    return [
        sys.executable,
        "-m",
        "pellucid",
        "chat",
        "-m",
        str(model),
        "--chat-template",
        str(template),
        "--temperature",
        "0",
    ]


def talk(chat: list[str], *lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*chat, "-n", "8"], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, timeout=120
    )


def saved(path: Path) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(path.read_text())["messages"]]


def test_history_is_what_was_said(chat: list[str], tmp_path: Path) -> None:
    result = talk(chat, "Hello", "And then?", f"/save {tmp_path / 'said.json'}")
    assert result.returncode == 0
    messages = saved(tmp_path / "said.json")
    assert [role for role, _ in messages] == ["user", "assistant"] * 2
    assert [messages[0][1], messages[2][1]] == ["Hello", "And then?"]
    assert result.stdout == "".join(content + "\n" for role, content in messages if role == "assistant")
    assert "4 messages in" in result.stderr


def test_a_later_answer_depends_on_the_history_and_reset_forgets_it(chat: list[str]) -> None:
    def prompt_tokens(*lines: str) -> list[int]:
        return [int(number) for number in re.findall(r"prompt (\d+) tokens", talk(chat, *lines).stderr)]

    first, second = prompt_tokens("Hello", "Hello")
    assert second > first
    assert prompt_tokens("Hello", "/reset", "Hello") == [first, first]


@pytest.mark.habit("conversation", "a long conversation", "works", "only what is new is computed")
@pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
def test_a_later_turn_computes_only_what_is_new_and_says_so(chat: list[str]) -> None:
    figures = talk([*chat, "--executor", "native"], "Hello there, my friend", "And then?").stderr
    (first, second) = re.findall(r"prompt (\d+) tokens(?: \((\d+) reused\))?", figures)
    assert first[1] == ""
    assert int(first[0]) <= int(second[1]) < int(second[0])


def test_guesses_change_no_word(chat: list[str], stories: Path) -> None:
    lines = ("Hello there, my friend", "Hello there, my friend")
    plain = talk(chat, *lines)
    for flags in (["--prompt-lookup", "10"], ["--draft", str(stories / "stories260K.bin")]):
        guessed = talk([*chat, *flags], *lines)
        assert guessed.stdout == plain.stdout
        assert "guesses right" in guessed.stderr


def test_an_answer_that_the_context_cuts_off_says_so(chat: list[str]) -> None:
    result = subprocess.run(
        [*chat, "-c", "24"], input="Once upon a time\n", capture_output=True, text=True, timeout=120
    )
    assert "the context is full" in result.stderr


@pytest.mark.habit("conversation", "/system TEXT", "works")
def test_a_system_message_stays_and_begins_anew(chat: list[str], tmp_path: Path) -> None:
    result = talk(
        chat,
        "Hello",
        "/system Be brief.",
        "Who?",
        f"/save {tmp_path / 'said.json'}",
        "/reset",
        f"/save {tmp_path / 'reset.json'}",
    )
    assert [message for message in saved(tmp_path / "said.json") if message[0] != "assistant"] == [
        ("system", "Be brief."),
        ("user", "Who?"),
    ]
    assert saved(tmp_path / "reset.json") == [("system", "Be brief.")]
    assert "system: Be brief." in result.stderr


def test_a_mistake_does_not_end_the_conversation(chat: list[str], tmp_path: Path) -> None:
    result = talk(chat, "/nonsense", f"/save {tmp_path}", "/save", "word " * 600, "Hello")
    assert result.returncode == 0
    assert "there is no command /nonsense" in result.stderr
    assert "could not be saved" in result.stderr
    assert "no file is named" in result.stderr
    assert "/reset begins anew" in result.stderr
    assert result.stdout.strip(), "Hello was answered"


@pytest.mark.habit("conversation", "a line that ends in \\\\ goes on", "works", "as in llama.cpp's")
def test_a_line_that_ends_in_a_backslash_goes_on(chat: list[str], tmp_path: Path) -> None:
    talk(chat, "one\\", "two", f"/save {tmp_path / 'said.json'}")
    assert saved(tmp_path / "said.json")[0] == ("user", "one\ntwo")


def test_a_model_without_a_template_is_refused_before_anyone_types(stories: Path) -> None:
    command = [sys.executable, "-m", "pellucid", "chat", "-m", str(stories / "stories260K.bin")]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "no chat template" in result.stderr
    assert "pellucid generate" in result.stderr


class Terminal:
    """A program on a pty of its own, as a person has it."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # a job in the background, as CI may be, has it ignored; a terminal's program has not
            os.environ |= {"TERM": "xterm", "NO_COLOR": "1"}
            os.execv(command[0], command)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Everything since the last wait up to the pattern."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self.fd], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            try:
                self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"it ended without {pattern!r}: {self.seen!r}") from None
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def status(self, seconds: float = 30) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            select.select([self.fd], [], [], 0.1)
        raise AssertionError("it does not end")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(chat: list[str]) -> Iterator[Terminal]:
    # Neither stop id nor stop string comes soon: the answer would go on to the end of the context.
    it = Terminal([*chat, "--executor", "torch"])
    yield it
    it.close()


@pytest.mark.habit("conversation", "Ctrl-C, Ctrl-D", "works", "stop the answer; leave")
def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    terminal.type("Once upon a time\n")
    terminal.wait_for(r"time\r\n.*[a-z]{3}")
    terminal.type("\x03")
    terminal.wait_for(r"…\r\n")
    terminal.wait_for("> ")
    terminal.type("Once upon a time\n")  # and the conversation goes on
    terminal.wait_for(r"time\r\n.*[a-z]{3}")
    terminal.type("\x03")
    terminal.wait_for(r"…\r\n")
    terminal.wait_for("> ")
    time.sleep(1)  # a person is no quicker: between the prompt and the reading of it lies a moment
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /exit leaves")
    terminal.wait_for("> ")
    terminal.type("/help\n")
    terminal.wait_for("forget the conversation")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.status() == 0


def test_ctrl_c_while_it_loads_leaves_with_130(chat: list[str]) -> None:
    terminal = Terminal(chat)
    try:
        terminal.wait_for("loading")
        terminal.type("\x03")
        assert terminal.status() == 130
        assert "Traceback" not in terminal.seen
    finally:
        terminal.close()
