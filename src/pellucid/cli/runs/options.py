"""Flags that several commands share, and help that shows them under headings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from pellucid.base.errors import RequestError

DEFAULT_MODEL = "smollm2"
NAMING = "a folder, .gguf or .bin file, catalogue name, or org/name[@revision]"

QUANTIZED = ("q8", "q4")
DTYPES = ("auto", "float32", "bfloat16", "float16")
THREADS = click.IntRange(1, 1024)

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class Option(click.Option):
    """An option that knows its heading in the help."""

    def __init__(self, *arguments: Any, heading: str = "Options", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.heading = heading

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Defaults, but no ranges: [0<=x<=1] says little that an error would not say better."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose help lists its options by heading, and that knows other programs' names of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from pellucid.cli.terminal.spellings import respelled

        known = {
            name: isinstance(one, click.Option) and not one.is_flag and not one.count
            for one in self.get_params(ctx)
            if isinstance(one, click.Option)
            for name in (*one.opts, *one.secondary_opts)
        }

        def refuse(option: str, where: str) -> None:
            ctx.fail(f"There is no option {option} here → {where}")

        return super().parse_args(ctx, respelled(args, known, refuse))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                headings.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        headings["Options"] = headings.pop("Options")  # --help is always there, and reads best at the end
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def command(name: str) -> Callable[[Callable[..., None]], Command]:
    """A command of that name; its help is the function's docstring."""
    return click.command(
        name, cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
    )


def option(*flags: str, **settings: Any) -> Decorator[Any]:
    return click.option(*flags, cls=Option, **settings)


def refuse_idle(**effective: tuple[bool, str]) -> None:
    """Refuse options that were typed and would do nothing. Parameter's name → (whether it does something here, when it
    would). Raises: RequestError.
    """
    for parameter in click.get_current_context().command.params:
        does, when = effective.get(parameter.name or "", (True, ""))
        if not does and is_typed(parameter.name or ""):
            raise RequestError(f"{_typed(parameter)} has no effect here", expected=f"it {when}")


def names_a_model(text: str) -> bool:
    """Whether the text is the name of a model: of the list, of the hub, or of a file."""
    from pathlib import Path

    from pellucid.checkpoint.sources.catalogue import find_entry
    from pellucid.checkpoint.sources.hub import HubName

    if " " in text.strip() or len(text) > 200:
        return False
    return find_entry(text) is not None or HubName.parse(text) is not None or Path(text).exists()


def is_typed(name: str) -> bool:
    """Whether the parameter comes from the command line, rather than from a default or a file."""
    return click.get_current_context().get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _typed(parameter: click.Parameter) -> str:
    """The parameter as a person types it: its long flag, or the metavar of an argument."""
    return parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.metavar)


def together(options: Iterable[Decorator[Any]]) -> Decorator[Any]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(function: Any) -> Any:
        for one in reversed(list(options)):
            function = one(function)
        return function

    return decorate


model = option(
    "-m",
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="NAME",
    help=f"{NAMING[0].upper()}{NAMING[1:]}.",
    heading="Model",
)
tokenizer = option(
    "--tokenizer",
    metavar="NAME",
    help="Another model's tokenizer, or a folder of one.",
    heading="Model",
)
offline = option("--offline", is_flag=True, help="Use only what is on this machine.", heading="Model")
context_size = option(
    "-c",
    "--ctx-size",
    "context_len",
    type=click.IntRange(min=1),
    metavar="N",
    help="Context in tokens; default: the model's own.",
    heading="Model",
)
kv_cache = option(
    "--kv-cache",
    type=click.Choice(["f32", "f16", "int8"]),
    metavar="NAME",
    help="How native keeps keys and values: f32, f16 or int8; default: f16, or as the weights are.",
    heading="Model",
)


class Bytes(click.ParamType):
    """``6G``, ``512M``, ``1.5g`` or plain bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pellucid.base.memory import bytes_of

        try:
            return value if isinstance(value, int) else bytes_of(value)
        except ValueError:
            self.fail(f"{value!r} is no amount of memory; say 6G, 512M or a number of bytes", param, ctx)


# What open_session takes, beside the model.
running = together(
    [
        context_size,
        option(
            "--memory",
            type=Bytes(),
            metavar="SIZE",
            help="For keys and values, such as 6G; default: most of what is free.",
            heading="Model",
        ),
        option(
            "--dtype",
            type=click.Choice(DTYPES),
            metavar="NAME",
            default="auto",
            help="auto, float32, bfloat16 or float16.",
            heading="Model",
        ),
        option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", heading="Model"),
        option(
            "-t",
            "--threads",
            type=THREADS,
            metavar="N",
            help="CPU threads; default: one a core.",
            heading="Model",
        ),
        option(
            "--executor",
            type=click.Choice(["auto", "native", "torch"]),
            metavar="NAME",
            default="auto",
            help="auto, native or torch.",
            heading="Model",
        ),
        kv_cache,
        tokenizer,
        offline,
    ]
)


class Length(click.ParamType):
    """A number of tokens; -1, as llama.cpp and Ollama have it: as many as fit."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1 and number != AS_MANY_AS_FIT:
            self.fail(f"{value} is no number of tokens: 1 or more, or -1 for as many as fit", param, ctx)
        return number


AS_MANY_AS_FIT = -1


class Text(click.ParamType):
    """Text in which \\n, \\t, \\r and \\\\ are what they are in a program; nothing else is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return re.sub(r"\\([ntr\\])", lambda found: {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}[found[1]], value)


prompt = option("-p", "--prompt", metavar="TEXT", help="The prompt; - is standard input.", heading="Prompt")
prompt_file = option("-f", "--file", metavar="FILE", help="A prompt in a file.", heading="Prompt")
system = option("-sys", "--system", metavar="TEXT", help="The system message.", heading="Prompt")
chat_template = option(
    "--chat-template",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="A Jinja file to use instead of the model's.",
    heading="Prompt",
)

sampling = together(
    [
        option(
            "-n",
            "--max-tokens",
            "--max-new-tokens",
            "max_new_tokens",
            type=Length(),
            metavar="N",
            help="Stop after N tokens; -1: when the context is full.",
            heading="Sampling",
        ),
        option(
            "--temp",
            "--temperature",
            "temperature",
            type=click.FloatRange(min=0),
            metavar="T",
            help="0 takes the likeliest token always.",
            heading="Sampling",
        ),
        option(
            "--top-k",
            type=click.IntRange(min=0),
            metavar="K",
            help="Draw among the K likeliest; 0: all.",
            heading="Sampling",
        ),
        option(
            "--top-p",
            type=click.FloatRange(0, 1),
            metavar="P",
            help="Draw among the likeliest that sum to P.",
            heading="Sampling",
        ),
        option(
            "--min-p",
            type=click.FloatRange(0, 1),
            metavar="P",
            help="Drop what is below P × the likeliest.",
            heading="Sampling",
        ),
        option(
            "--repeat-penalty",
            type=click.FloatRange(min=0, min_open=True),
            metavar="R",
            help="Above 1: less repetition.",
            heading="Sampling",
        ),
        option(
            "--frequency-penalty",
            type=click.FloatRange(-2, 2),
            metavar="R",
            help="Subtracted for each time that the answer has a token.",
            heading="Sampling",
        ),
        option(
            "--presence-penalty",
            type=click.FloatRange(-2, 2),
            metavar="R",
            help="Subtracted once where the answer has a token.",
            heading="Sampling",
        ),
        option(
            "--seed",
            type=click.IntRange(min=0),
            metavar="N",
            help="The same seed draws the same tokens.",
            heading="Sampling",
        ),
        option(
            "--stop",
            multiple=True,
            type=Text(),
            metavar="TEXT",
            help="Stop before this text (\\n: a new line); can be given again.",
            heading="Sampling",
        ),
    ]
)

structure = together(
    [
        option(
            "--json-schema",
            metavar="FILE|TEXT",
            help="Answer with JSON of this schema: a file, or the schema itself.",
            heading="Structure; an answer that ends by itself has it",
        ),
        option(
            "--grammar",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="Answer as this grammar allows: Lark, or llama.cpp's GBNF.",
            heading="Structure; an answer that ends by itself has it",
        ),
        option(
            "--regex",
            metavar="TEXT",
            help="Answer with what this expression matches whole.",
            heading="Structure; an answer that ends by itself has it",
        ),
    ]
)

speculation = together(
    [
        option(
            "--draft",
            metavar="NAME",
            help="A smaller model of the same vocabulary, to guess ahead.",
            heading="Speed; answers stay the same",
        ),
        option(
            "--prompt-lookup",
            type=click.IntRange(1, 31),
            metavar="N",
            help="Guess up to N tokens ahead where the text repeats itself.",
            heading="Speed; answers stay the same",
        ),
    ]
)

as_json = option("--json", "as_json", is_flag=True, help="Results as JSON, for a program to read.")
quiet = option("-q", "--quiet", is_flag=True, help="Nothing but results and errors.")
