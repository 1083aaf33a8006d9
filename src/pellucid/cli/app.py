"""The program: its commands, and how each kind of failure leaves it."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module

import click

from pellucid.base.errors import PellucidError
from pellucid.base.version import __version__
from pellucid.cli.terminal.streams import drop_output, open_standard_streams, output_error, say

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses; 130 is the shell's for Ctrl-C
MAX_LINE = 2000  # characters of an error's line
COMMANDS = (
    "run",
    "chat",
    "generate",
    "serve",
    "tokenize",
    "inspect",
    "explain",
    "convert",
    "pretrain",
    "finetune",
    "evaluate",
    "tokenizer",
    "pull",
    "list",
    "rm",
)


# Commands of other programs, and where the idea lives here.
ELSEWHERE = {
    "show": "`pellucid inspect -m NAME`",
    "ps": "a model runs in the program that opened it, and stops with it; `pellucid list` shows what is here",
    "stop": "a model runs in the program that opened it, and stops with it",
    "create": "`pellucid convert`, or `pellucid finetune`",
    "cp": "a model is a folder or a file: copy that",
    "push": "in Python, model.push_to_hub(…)",
    "quantize": "`pellucid convert MODEL OUT.gguf --quantize q4_k_m`",
    "download": "`pellucid pull NAME`",
    "train": "`pellucid pretrain`, or `pellucid finetune`",
    "lora": "`pellucid finetune`",
    "fuse": "`pellucid convert ADAPTER OUT`",
    "bench": "`make bench` in the source tree",
    "perplexity": "`pellucid evaluate -d FILE`",
    "eval": "`pellucid evaluate -d FILE`",
    "complete": "`pellucid generate -p TEXT`",
    "embed": "`pellucid serve` has /v1/embeddings; in Python, Engine.embed",
    "server": "`pellucid serve`",
    "cli": "`pellucid chat`",
    "help": "`pellucid --help`, `pellucid COMMAND --help`",
    "version": "`pellucid --version`",
    "ls": "`pellucid list`",
    "search": "`pellucid list`, and the hub's own pages",
    "cache": "`pellucid list` and `pellucid rm`",
    "env": "`pellucid --version`, and `python -m torch.utils.collect_env`",
    "login": "HF_TOKEN in the environment, or `hf auth login`",
}


class Commands(click.Group):
    """Imports a command's file when the command is asked for: ``cli/NAME.py`` holds the command ``NAME``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return import_module(f"pellucid.cli.{cmd_name}").command if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches

        if args[0] in ELSEWHERE:
            ctx.fail(f"There is no command {args[0]!r} → {ELSEWHERE[args[0]]}")
        if args[0] not in COMMANDS and (close := get_close_matches(args[0], COMMANDS)):
            ctx.fail(f"There is no command {args[0]!r}. Did you mean {' or '.join(close)}?")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, message="pellucid %(version)s")
def app() -> None:
    """A transformer library you can see through: real checkpoints in, text out.

    For Linux and macOS; on Windows models run with torch (tested by simulation).
    """


def run() -> None:
    """Run the program and leave it: bad input is one message and status 2, Ctrl-C 130; a closed pipe is silent."""
    open_standard_streams()
    try:
        status = app(prog_name="pellucid", standalone_mode=False)
        if (failed := output_error()) is not None:
            raise failed
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        status = error.exit_code
    except BrokenPipeError:  # the reader has what it wanted
        drop_output()
        status = FAILED
    except click.Abort as error:
        status = INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else FAILED
    except (PellucidError, OSError) as error:  # of the system's: a full disk, a folder that may not be written to
        if os.environ.get("PELLUCID_DEBUG") == "1":
            raise
        complain(
            str(error)
            if isinstance(error, PellucidError)
            else f"{error.filename or 'the system says'}: {error.strerror or error}"
        )
        output_error()  # what is left of the output fails once, not again at the end
        status = BAD_INPUT
    except MemoryError as error:
        if os.environ.get("PELLUCID_DEBUG") == "1":
            raise
        complain(str(error) or "there is no memory for this")
        status = FAILED
    sys.exit(status)


def complain(message: str) -> None:
    """The message on stderr, its first line in red on a terminal. Whatever was typed or read cannot command that
    terminal, nor fill it.
    """
    first, *rest = map(_plain, message.split("\n"))
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    say("\n".join((click.style(f"Error: {first}", fg="red") if red else f"Error: {first}", *rest)))


def _plain(line: str) -> str:
    """A line of a message with its control characters written out, and cut where nobody would read on."""
    line = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} …"
    return "".join(sign if sign.isprintable() or sign == "\t" else repr(sign)[1:-1] for sign in line)
