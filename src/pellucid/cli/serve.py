"""``pellucid serve``: one model or several, for programs and for people."""

from __future__ import annotations

from typing import Any

import click

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options


@options.command("serve")
@options.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    default=[options.DEFAULT_MODEL],
    show_default=True,
    metavar="NAME",
    help=f"{options.NAMING[0].upper()}{options.NAMING[1:]}; can be given again.",
    heading="Model",
)
@options.option(
    "--served-model-name",
    "names",
    multiple=True,
    metavar="NAME",
    help="What clients call the models, in their order; default: as -m says.",
    heading="Model",
)
@options.running
@options.chat_template
@options.option(
    "--keep-alive",
    type=float,
    metavar="S",
    help="Give a model back after S seconds without a request; default: never the first, 300 for others.",
    heading="Model",
)
@options.option("--host", default="127.0.0.1", show_default=True, metavar="ADDR", heading="Network")
@options.option("--port", type=int, default=8080, show_default=True, metavar="N", help="0: any.", heading="Network")
@options.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="PELLUCID_API_KEY",
    metavar="KEY",
    help="Clients must know it; can be given again. Also in PELLUCID_API_KEY.",
    heading="Network",
)
@options.option(
    "--cors", "cors_origins", multiple=True, metavar="ORIGIN", help="A page that may ask; *: any.", heading="Network"
)
@options.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which clients may call this machine.",
    heading="Network",
)
@options.option("--ssl-certfile", type=click.Path(exists=True, dir_okay=False), metavar="FILE", heading="Network")
@options.option("--ssl-keyfile", type=click.Path(exists=True, dir_okay=False), metavar="FILE", heading="Network")
@options.option(
    "-np",
    "--parallel",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    metavar="N",
    help="Answers that are written at a time.",
    heading="Bounds",
)
@options.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    metavar="N",
    help="Answers that wait beside these; more are told to come again.",
    heading="Bounds",
)
@options.option("--timeout", "deadline", type=float, metavar="S", help="For a whole answer.", heading="Bounds")
@options.option(
    "--grace",
    type=float,
    default=30.0,
    show_default=True,
    metavar="S",
    help="To finish in, at the end.",
    heading="Bounds",
)
@options.speculation
def command(
    models: tuple[str, ...],
    names: tuple[str, ...],
    chat_template: str | None,
    keep_alive: float | None,
    parallel: int,
    deadline: float | None,
    **flags: Any,
) -> None:
    """Answer programs that speak OpenAI's API, and others'.

    POST /v1/chat/completions as to OpenAI; GET /openapi.json describes all there is; a browser finds a chat at /.
    Listens on this machine alone unless --host says otherwise.
    """
    from pellucid.cli.terminal.prompts import read_template
    from pellucid.serve.app import create_app
    from pellucid.serve.http.server import serve
    from pellucid.serve.settings import Settings
    from pellucid.serve.work.models import Model, Models

    if len(names) > len(models):
        raise RequestError("there are more names than models", expected=len(models), received=len(names))
    if deadline is not None and deadline <= 0:
        raise RequestError("--timeout is out of range", expected="more than 0 seconds", received=deadline)
    own = {name: flags.pop(name) for name in ("host", "port", "api_keys", "cors_origins", "allowed_hosts")}
    own |= {name: flags.pop(name) for name in ("ssl_certfile", "ssl_keyfile", "max_queue", "grace")}
    settings = Settings(**own, deadline=deadline, template=read_template(chat_template))
    served = []
    for place, model in enumerate(models):
        stays = keep_alive if keep_alive is not None else (None if place == 0 else 300.0)
        served.append(
            Model(
                names[place] if place < len(names) else model,
                _opener(model, flags, parallel),
                max_batch=parallel,
                keep_alive=stays,
                source=model,
            )
        )
    serve(create_app(Models(served), settings), settings)


def _opener(model: str, flags: dict[str, Any], max_batch: int) -> Any:
    def opened() -> Any:
        from pellucid.cli.runs.session import open_session

        return open_session(model, flags, max_batch=max_batch)

    return opened
