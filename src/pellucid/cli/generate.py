"""``pellucid generate``: answers to one prompt, as it is written, or to many, together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pellucid.base.errors import PellucidError, RequestError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from pellucid.cli.runs.session import Session
    from pellucid.generate.request import Request
    from pellucid.generate.result import Answer


@options.command("generate")
@click.argument("words", metavar="[PROMPT]", nargs=-1)
@options.model
@options.running
@options.prompt
@options.prompt_file
@options.option(
    "--prompts", metavar="FILE", help="Many prompts: one a line, or JSON lines; - is standard input.", heading="Prompt"
)
@options.option(
    "--chat/--raw",
    default=False,
    help="Apply the chat template, or continue the text.  [default: raw]",
    heading="Prompt",
)
@options.system
@options.chat_template
@options.sampling
@options.option(
    "--answers", type=click.IntRange(min=1), default=1, metavar="N", help="N answers to a prompt.", heading="Sampling"
)
@options.structure
@options.speculation
@options.as_json
@options.option(
    "--logprobs",
    type=click.IntRange(0, 100),
    metavar="N",
    help="With --json: each token's log-probability, and the N likeliest's.",
)
@options.quiet
def command(
    words: tuple[str, ...],
    model: str,
    prompt: str | None,
    file: str | None,
    prompts: str | None,
    chat: bool,
    system: str | None,
    chat_template: str | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    answers: int,
    json_schema: str | None,
    grammar: str | None,
    regex: str | None,
    as_json: bool,
    logprobs: int | None,
    quiet: bool,
    **flags: Any,
) -> None:
    """Write an answer to a prompt, or to many.

    A plain prompt is continued; with --chat (or -sys, --chat-template) it is a user's message. What is piped in is the
    prompt, or comes after it. Without a prompt the model begins a text of its own. Tokens are chosen greedily unless a
    sampling flag, or the model's own generation_config.json, says otherwise.
    """
    from pellucid.cli.runs.session import open_session
    from pellucid.cli.terminal.console import status
    from pellucid.cli.terminal.prompts import chat_messages, gathered, read_grammar, read_prompts, read_template

    if prompts is not None and (prompt is not None or file is not None or words):
        raise RequestError("--prompt and --prompts exclude each other", remedy="put all prompts into the file")
    options.refuse_idle(logprobs=(as_json, "is written with --json"))
    if not chat and (system is not None or chat_template is not None) and options.is_typed("chat"):
        raise RequestError("--raw continues a text, which has no system message and no template")
    asked = [gathered(prompt, words, file) or ""] if prompts is None else read_prompts(prompts)
    template, structure = read_template(chat_template), read_grammar(json_schema, grammar, regex)
    chat = chat or system is not None or template is not None
    with status("" if quiet else f"loading {os.path.basename(model)} …"):
        session = open_session(model, flags)
    sampling = session.sampling(flags)

    def request_for(one: Any) -> Request:
        ids = (
            session.encode_chat(chat_messages(one, system), template)
            if chat or not isinstance(one, str)
            else session.encode(one)
        )
        return session.request(
            ids,
            sampling,
            max_new_tokens=max_new_tokens,
            stop=stop,
            answers=answers,
            logprobs=logprobs,
            grammar=structure,
        )

    if prompts is None and not as_json and answers == 1:
        write_one(session, request_for(asked[0]), quiet)
    else:
        _write_many(
            session, [_numbered(number, request_for, one) for number, one in enumerate(asked, 1)], asked, as_json, quiet
        )


def _numbered(number: int, request_for: Callable[[Any], Request], prompt: Any) -> Request:
    """The request for one of many prompts; what is wrong with it names it, before any is answered."""
    try:
        return request_for(prompt)
    except PellucidError as error:
        raise RequestError(f"prompt {number}: {error}") from None


def write_one(session: Session, request: Request, quiet: bool) -> Answer:
    """Stream an answer to stdout; its figures go to stderr. Raises: what went wrong in the engine."""
    from pellucid.cli.terminal.console import figures, notice, writer

    write, answer = writer(), None
    for event in session.engine.stream(request):
        write(event.text)
        answer = event.answer
    assert answer is not None
    write("\n")
    if answer.error is not None:
        raise answer.error
    if not quiet:
        notice(figures(answer, session.engine.context_len))
    return answer


def _write_many(session: Session, requests: list[Request], asked: list[Any], as_json: bool, quiet: bool) -> None:
    """Answer all requests together; each one's answers are written as soon as those before it are."""
    from pellucid.cli.terminal.console import notice, status, visible

    places = {session.engine.add(request): place for place, request in enumerate(requests)}
    answers: dict[int, dict[int, Answer]] = {place: {} for place in places.values()}
    several = len(requests) > 1
    written = new_tokens = 0
    with status("") as say:
        while session.engine.has_work:
            for event in session.engine.step():
                new_tokens += event.token_id is not None
                if event.answer is not None:
                    answers[places[event.request_id]][event.answer.index] = event.answer
            while written < len(requests) and len(answers[written]) == requests[written].n:
                say("")
                if not quiet and not as_json and several:
                    notice(f"{written + 1}. {visible(str(asked[written]))[:70]}")
                for index in sorted(answers[written]):
                    _write(session, asked[written], answers[written][index], as_json)
                    if not as_json and (index + 1 < requests[written].n or written + 1 < len(requests)):
                        print()  # an empty line between answers
                written += 1
            if not quiet and several:
                done = sum(len(answers[place]) == request.n for place, request in enumerate(requests))
                say(f"{done} of {len(requests)} answered, {new_tokens:,} tokens")
    if not quiet and (several or requests[0].n > 1):
        notice(f"{sum(request.n for request in requests)} answers, {new_tokens:,} tokens")


def _write(session: Session, prompt: Any, answer: Answer, as_json: bool) -> None:
    if answer.error is not None:
        raise answer.error
    text = json.dumps(_as_dict(session, prompt, answer), ensure_ascii=False) if as_json else answer.text
    print(text, flush=True)


def _as_dict(session: Session, prompt: Any, answer: Answer) -> dict[str, Any]:
    timings, tokens = answer.timings, session.tokenizer.convert_ids_to_tokens
    logprobs = answer.logprobs and [
        {
            "token": tokens([one.token_id])[0],
            "logprob": round(one.logprob, 6),
            "top": {tokens([token])[0]: round(value, 6) for token, value in one.top},
        }
        for one in answer.logprobs
    ]
    return {
        "prompt": prompt,
        "text": answer.text,
        **({"index": answer.index} if answer.index else {}),
        **({} if logprobs is None else {"logprobs": logprobs}),
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "stopped_by": answer.stopped_by,
        "seed": answer.seed,
        "timings": {
            "prompt_tokens": timings.prompt_tokens,
            "new_tokens": timings.new_tokens,
            "reused_tokens": timings.reused_tokens,
            "guessed_tokens": timings.guessed_tokens,
            "accepted_tokens": timings.accepted_tokens,
            "time_to_first_token": round(timings.time_to_first_token, 4),
            "prefill_tokens_per_second": round(timings.prefill_tokens_per_second, 2),
            "decode_tokens_per_second": round(timings.decode_tokens_per_second, 2),
        },
    }
