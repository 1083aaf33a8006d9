"""What hands know from Ollama, llama.cpp and mlx-lm: pipes, words without flags, other spellings, chat's commands."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from option_walk import make_model

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base import notice
from pellucid.base.errors import ModelNotFoundError
from pellucid.cli.app import ELSEWHERE, app
from pellucid.cli.runs import conversation, options
from pellucid.cli.terminal import at_hand, scripts, spellings

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


@pytest.mark.habit("shell", "echo TEXT | pellucid generate", "works")
@pytest.mark.habit("shell", "generate -p - < FILE", "works")
def test_what_is_piped_in_is_the_prompt(model: Path) -> None:
    assert prompt("-m", model, stdin=b"abc\n") == "abc"
    assert prompt("-m", model, "-p", "-", stdin=b"abc\ndef\n") == "abc\ndef"


@pytest.mark.habit("shell", 'generate -p "Summarise:" < FILE', "works", "appended, as Ollama does")
@pytest.mark.habit("shell", 'run NAME "Summarise:" < FILE', "works")
def test_what_is_piped_in_comes_after_what_is_typed(model: Path) -> None:
    assert prompt("-m", model, "-p", "sum up:", stdin=b"abc\n") == "sum up:\nabc"
    assert prompt("-m", model, "sum", "up:", stdin=b"abc\n") == "sum up:\nabc"


@pytest.mark.habit("shell", "generate -f FILE", "works")
def test_a_file_is_a_prompt_or_comes_after_one(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abc\n")
    assert prompt("-m", model, "-f", tmp_path / "text") == "abc"
    assert prompt("-m", model, "-p", "x", "-f", tmp_path / "text") == "x\nabc"


@pytest.mark.habit("shell", "a byte-order mark before a prompt", "works", "it is no part of it")
def test_a_byte_order_mark_is_no_part_of_the_prompt(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfabc")
    assert prompt("-m", model, stdin=b"\xef\xbb\xbfabc\n") == "abc"
    assert prompt("-m", model, "-f", tmp_path / "text") == "abc"


def test_nothing_piped_in_changes_nothing(model: Path) -> None:
    assert prompt("-m", model, "abc", stdin=b"") == "abc"


@pytest.mark.habit("shell", "generate -p TEXT TEXT", "pointer", "one of them")
def test_a_prompt_that_is_given_twice_is_refused(model: Path) -> None:
    assert b"given twice" in pellucid("generate", "-m", model, "-p", "a", "b", status=2).stderr


# --- other spellings --------------------------------------------------------------------------------------------------


@pytest.mark.habit("shell", "-n -1", "works", "to the end of the context")
def test_minus_one_is_as_many_as_fit(model: Path) -> None:
    words = ("generate", "-m", model, "-p", "abc", *FAST, "-c", "20", "-n", "-1", "--json")
    answer = json.loads(pellucid(*words, stdin=b"").stdout)
    assert answer["finish_reason"] == "stop" or len(answer["token_ids"]) == 17
    assert b"1 or more, or -1" in pellucid("generate", "-m", model, "-n", "0", status=2).stderr


@pytest.mark.habit("shell", "--stop '\\n'", "works", "a new line")
@pytest.mark.habit("shell", "--max-tokens 3", "works")
def test_a_stop_text_understands_escapes(model: Path) -> None:
    words = ("generate", "-m", model, "-p", "abc", *FAST, "-n", "40", "-q")
    whole = pellucid(*words, stdin=b"").stdout.decode()
    assert pellucid(*words, "--stop", "\\n", stdin=b"").stdout.decode().rstrip("\n") == whole.partition("\n")[0]
    assert pellucid(*words, "--max-tokens", "3", stdin=b"").stdout.decode().strip("\n") in whole


@pytest.mark.habits("shell", "pellucid {}", "pointer", table="src/pellucid/cli/app.py:ELSEWHERE")
@pytest.mark.parametrize("command", ELSEWHERE)
def test_a_command_of_another_program_says_where_the_idea_lives(command: str) -> None:
    assert ELSEWHERE[command][:40].encode() in pellucid(command, "x", status=2).stderr.replace(b"\n", b" ")


@pytest.mark.habit("shell", 'run NAME "prompt"', "works")
@pytest.mark.habit("shell", "run NAME < FILE", "works")
@pytest.mark.habit("shell", "run NAME", "works", "a conversation")
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


@pytest.mark.habit("conversation", '""" … """', "works", "a message of many lines")
def test_a_message_of_many_lines(model: Path, tmp_path: Path) -> None:
    talk(model, '"""', "one", "two", '"""', '"""three"""', f"/save {tmp_path / 's'}")
    assert said(tmp_path / "s")[::2] == ["one\ntwo", "three"]


@pytest.mark.habit("conversation", "/undo", "works")
@pytest.mark.habit("conversation", "/regenerate", "works")
@pytest.mark.habit("conversation", "/clear", "works")
def test_undo_regenerate_and_clear(model: Path, tmp_path: Path) -> None:
    talk(model, "one", "two", "/undo", f"/save {tmp_path / 'a'}", "/regenerate", f"/save {tmp_path / 'b'}")
    assert said(tmp_path / "a") == said(tmp_path / "b")
    assert said(tmp_path / "a")[0] == "one"
    talk(model, "one", "/clear", "two", f"/save {tmp_path / 'c'}")
    assert said(tmp_path / "c")[::2] == ["two"]
    assert b"nothing has been said yet" in talk(model, "/undo").stderr
    assert b"nothing has been said yet" in talk(model, "/regenerate").stderr


@pytest.mark.habit("conversation", "/set temperature 0.25", "works")
@pytest.mark.habit("conversation", "/set", "works")
@pytest.mark.habit("conversation", "/set warmth 3", "pointer", "the settings there are")
def test_settings_are_shown_and_set(model: Path) -> None:
    told = talk(model, "/set", "/set temperature 0.25", "/set parameter num_predict 1", "hello").stderr.decode()
    assert "temperature 0.0" in told
    assert "temperature 0.25" in told
    assert "answer 1 token" in told
    assert "there is no setting 'warmth'" in talk(model, "/set warmth 3").stderr.decode()
    assert "temperature is a number" in talk(model, "/set temperature hot").stderr.decode()


@pytest.mark.habit("conversation", "/save FILE, /load FILE", "works")
@pytest.mark.habit("conversation", "/model NAME", "works")
def test_a_conversation_is_loaded_and_goes_on_with_another_model(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    talk(model, "one", f"/save {tmp_path / 's'}")
    told = talk(model, f"/load {tmp_path / 's'}", f"/model {other}", "/model", "two", f"/save {tmp_path / 't'}")
    assert said(tmp_path / "t")[:2] == said(tmp_path / "s")
    assert said(tmp_path / "t")[2] == "two"
    assert f"{other} answers now" in told.stderr.decode()
    assert b"there is no conversation" in talk(model, f"/load {model / 'config.json'}").stderr
    assert b"no/such/folder/at/all" in talk(model, "/model no/such/folder/at/all", f"/save {tmp_path / 'u'}").stderr


@pytest.mark.habit("conversation", "/save of a file that is there", "works", "asks first")
@pytest.mark.habit("conversation", "the arrow up key", "works", "history across conversations")
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


@pytest.mark.habit("conversation", "/show, /show system, /show template, /show parameters", "works")
@pytest.mark.habit("conversation", "/show modelfile", "pointer", "`pellucid inspect -m NAME`")
@pytest.mark.habit("conversation", "/set system TEXT", "works")
@pytest.mark.habit("conversation", "/set verbose, /set quiet", "works")
@pytest.mark.habit("conversation", "/read FILE", "works")
@pytest.mark.habit("conversation", "/regen, /retry", "works")
def test_ollamas_and_llama_cpps_commands_of_a_conversation(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\ufeffone\ntwo\n")
    lines = ("/set system Be brief.", "/show", "/show system", "/show parameters", "/show modelfile", "/set quiet")
    told = talk(model, *lines, f"/read {tmp_path / 'text'}", "/regen", f"/save {tmp_path / 's'}").stderr.decode()
    assert told.count("system: Be brief.") == 3
    assert "temperature 0.0" in told
    assert "pellucid inspect" in told
    assert "No figures are written." in told
    assert "tokens/s" not in told
    assert said(tmp_path / "s")[:2] == ["Be brief.", "one\ntwo"]


@pytest.mark.habits("conversation", "/set {}", "pointer", table="src/pellucid/cli/runs/conversation.py:SET_ELSEWHERE")
@pytest.mark.habits("conversation", "{}", "pointer", table="src/pellucid/cli/runs/conversation.py:ELSEWHERE")
@pytest.mark.habits(
    "conversation", "/set parameter {} 3", "works", table="src/pellucid/cli/runs/conversation.py:SET_AS"
)
def test_what_a_conversation_has_not_says_what_to_write(model: Path) -> None:
    lines = [*(f"/set {name} 3" for name in conversation.SET_ELSEWHERE), *conversation.ELSEWHERE]
    told = talk(model, *lines).stderr.decode()
    for where in (*conversation.SET_ELSEWHERE.values(), *conversation.ELSEWHERE.values()):
        assert where in told
    told = talk(model, *(f"/set parameter {name} 3" for name in conversation.SET_AS)).stderr.decode()
    assert "temperature 3.0" in told
    assert "repetition_penalty 3.0" in told
    assert "max_new_tokens 3" in told


# --- options of other programs ----------------------------------------------------------------------------------------


def own_options(name: str) -> dict[str, bool]:
    command = import_module(f"pellucid.cli.{name}").command
    return {
        flag: not one.is_flag
        for one in command.params
        if isinstance(one, click.Option)
        for flag in one.opts + one.secondary_opts
    }


@pytest.mark.habits("shell", "{} of another program", "works", table="src/pellucid/cli/terminal/spellings.py:SAME")
@pytest.mark.parametrize("theirs", spellings.SAME)
def test_another_programs_spelling_of_an_option_is_ours(theirs: str) -> None:
    ours = spellings.SAME[theirs]
    known = own_options("generate")
    assert ours in known, theirs

    def refuse(option: str, where: str) -> None:
        raise AssertionError(option)

    assert spellings.respelled([theirs, "x", "-p", theirs], known, refuse) == [ours, "x", "-p", theirs]
    assert spellings.respelled(["--", theirs], known, refuse) == ["--", theirs]


@pytest.mark.habits("shell", "{}", "pointer", table="src/pellucid/cli/terminal/spellings.py:ELSEWHERE")
@pytest.mark.parametrize("theirs", spellings.ELSEWHERE)
def test_an_option_that_is_not_here_says_what_to_write(theirs: str) -> None:
    done = CliRunner().invoke(app, ["generate", "-m", "no-model-of-that-name", theirs, "1"])
    assert done.exit_code == 2
    assert f"There is no option {theirs} here → {spellings.ELSEWHERE[theirs]}" in done.output


@pytest.mark.habit("shell", "generate --max_tokens 3 --top_p 0.9", "works", "_ for - in any option")
@pytest.mark.habit("shell", "generate -hf NAME -cnv -p TEXT --n-predict 3", "works")
def test_whole_lines_of_other_programs(model: Path) -> None:
    plain = pellucid("generate", "-m", model, "-p", "abc", *FAST, "-n", "3", "-q", "--chat", stdin=b"").stdout
    line = ("generate", "-hf", model, "-cnv", "-p", "abc", *FAST, "--n-predict=3", "--log-disable")
    assert pellucid(*line, stdin=b"").stdout == plain
    line = ("generate", "--model_path", model, "-cnv", "-p", "abc", *FAST, "--max_tokens", "3", "-q", "--top_k", "1")
    assert pellucid(*line, stdin=b"").stdout == plain


@pytest.mark.habit("shell", "chat NAME", "differs", "NAME is what is said, and it says so: chat -m NAME, or run NAME")
@pytest.mark.habit("shell", "--chat-template chatml", "pointer", "templates are files here; the model's own is used")
def test_words_that_mean_something_else_here(model: Path) -> None:
    assert options.names_a_model("llama3.2:1b")
    assert options.names_a_model("org/name")
    assert options.names_a_model(str(model))
    assert not options.names_a_model("tell me of llamas")
    told = pellucid("generate", "-m", model, "-p", "x", "--chat-template", "chatml", stdin=b"", status=2).stderr
    assert b"templates are files here" in told


@pytest.mark.skipif(sys.platform == "win32", reason="a pty is Unix's")
@pytest.mark.habit("conversation", "pasting several lines", "works", "they stay one message (bracketed paste)")
def test_what_is_pasted_stays_one_message(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    parent, child = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm-256color"}
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
    os.write(parent, b"\x1b[200~one\ntwo\nthree\x1b[201~\n")
    wait_for(b"tokens")
    wait_for(b"> ")
    os.write(parent, f"/save {tmp_path / 's'}\n".encode())
    wait_for(b"messages in")
    os.write(parent, b"/exit\n")
    assert process.wait(60) == 0
    assert said(tmp_path / "s")[0] == "one\ntwo\nthree"
    assert len(said(tmp_path / "s")) == 2


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.habit(
    "shell",
    "LANG=zh_CN.UTF-8 pellucid chat, make demo",
    "differs",
    "a bilingual model of the hub, and it is said; where it is out of reach, SmolLM2, and what that cannot do",
)
def test_a_chinese_locale_begins_with_a_model_that_reads_chinese(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    assert at_hand.first_model(fetched.append) == options.DEFAULT_MODEL
    assert fetched == []
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert at_hand.first_model(fetched.append) == at_hand.BILINGUAL == fetched[0]

    def out_of_reach(name: str) -> None:
        raise ModelNotFoundError("out of reach")

    assert at_hand.first_model(out_of_reach) == options.DEFAULT_MODEL
    assert "只会英文，不会读写中文" in capsys.readouterr().err
    monkeypatch.setenv("LC_ALL", "C")
    assert not at_hand.reads_chinese()


@pytest.mark.habit("shell", "a prompt in a script that the model lacks", "works", "answered, and said once")
def test_a_script_that_the_model_lacks_is_told_once(
    smollm2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_told", set())
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for text in ("Why?", "Qué será", "你好，请介绍一下自己", "天空为什么是蓝色的？"):
        scripts.tell_of_script(text, tokenizer)
    assert capsys.readouterr().err.count("几乎没有汉字") == 1
    scripts.tell_of_script("なぜ空は青いのですか", tokenizer)
    assert "hardly a Hiragana character" in capsys.readouterr().err
    for text in ("春天", "天空为什么是蓝色的"):
        scripts.tell_of_script(text, AutoTokenizer.from_pretrained("tiny"))
    assert not capsys.readouterr().err


# --- between Python and the shell -------------------------------------------------------------------------------------


@pytest.mark.habit("shell", "model.save_pretrained(folder), then generate -m folder", "works")
@pytest.mark.habit("shell", "--answers 2 --json", "works", "several answers to a prompt")
@pytest.mark.habit("shell", "--logprobs 2 --json", "works")
@pytest.mark.habit("shell", "--presence-penalty, --frequency-penalty with --json", "works")
@pytest.mark.habit("shell", "--tokenizer NAME", "works")
def test_a_folder_that_python_saved_opens_in_the_shell(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "mine")
    words = ("generate", "-m", tmp_path / "mine", "-p", "Once", *FAST, "-n", "3", "--json", "--logprobs", "2")
    more = ("--presence-penalty", "0.5", "--frequency-penalty", "0.5", "--tokenizer", "tiny")
    answer = json.loads(pellucid(*words, *more, stdin=b"").stdout)
    assert len(answer["logprobs"]) == 3
    assert len(answer["logprobs"][0]["top"]) == 2
    drawn = ("generate", "-m", tmp_path / "mine", "-p", "Once", "--seed", "1", "--answers", "2", "--json", "-n", "3")
    answers = [json.loads(line) for line in pellucid(*drawn, "--executor", "torch", stdin=b"").stdout.splitlines()]
    assert [answer.get("index", 0) for answer in answers] == [0, 1]
