"""EleutherAI's lm-evaluation-harness over a Pellucid model: ``pip install 'pellucid[lm-eval]'``.

    from lm_eval import simple_evaluate
    from pellucid.harness import harness_model

    simple_evaluate(model=harness_model("smollm2"), tasks=["arc_easy"])

or ``pellucid evaluate -m smollm2 --tasks arc_easy``.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import PellucidError, RequestError

if TYPE_CHECKING:
    from pellucid.generate.request import Request
    from pellucid.model.decoder import Decoder
    from pellucid.sampling import SamplingParams
    from pellucid.text.tokenizer import Tokenizer


USUAL_BATCH = 8


class HarnessError(PellucidError, ImportError):
    """lm-eval is not installed."""


def harness_model(name: str, *, dtype: str = "auto", device: str = "auto") -> Any:
    """An ``lm_eval.api.model.LM`` of a model by its name. Raises: HarnessError without lm-eval."""
    from pellucid.auto import load_model

    return as_harness_model(*load_model(name, dtype=dtype, device=device))


def as_harness_model(model: Decoder, tokenizer: Tokenizer, *, batch_size: int = USUAL_BATCH) -> Any:
    """An ``lm_eval.api.model.LM`` that answers with this model, as the harness's own ``HFLM`` would. ``batch_size``:
    rows that are scored, or answered, at a time.

    Source: lm-evaluation-harness 0.4.13, ``models/huggingface.py`` (which tokens are scored after which).
    """
    try:
        from lm_eval.api.model import LM  # type: ignore[import-not-found]
    except ImportError as error:
        raise HarnessError(f"lm-eval cannot be imported: {error}", remedy="pip install 'pellucid[lm-eval]'") from None
    from pellucid.generate.engine import Engine
    from pellucid.model.executor import TorchExecutor
    from pellucid.train.measure.choices import encode_pair, first_id, prefix_ids, score
    from pellucid.train.measure.evaluate import evaluate

    class PellucidLM(LM):
        """The three questions that the harness asks."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            scores = score(model, [encode_pair(tokenizer, *request.args) for request in requests], rows=batch_size)
            return [(one.log_p, one.is_greedy) for one in scores]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            totals = []
            for request in requests:
                (text,) = request.args
                ids = [*prefix_ids(tokenizer, text), *tokenizer.encode(text, add_special_tokens=False)]
                # As HFLM does: before all that the tokenizer makes of the text, its own BOS included.
                ids = [first_id(tokenizer), *ids]
                scored = len(ids) > 1
                size = max(len(text.encode()), 1)
                totals.append(-evaluate(model, ids, size, rows=batch_size).nll if scored else 0.0)
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            engine = Engine(TorchExecutor(model), tokenizer, max_batch=batch_size)
            stops = set(engine.defaults.stop_token_ids)
            places, num_cut = {}, 0
            for place, request in enumerate(requests):
                prompt, settings = request.args
                asked = generation(settings, engine.context_len, seed=place)
                room = engine.context_len - asked.max_new_tokens
                prefix = prefix_ids(tokenizer, prompt)
                ids = [*prefix, *tokenizer.encode(prompt, add_special_tokens=False)]
                num_cut += len(ids) > room
                one = asked.request(ids[-room:], stops)
                places[engine.add(one)] = place
            if num_cut:
                print(f"{num_cut:,} of {len(requests):,} prompts lost their beginning: the context", file=sys.stderr)
            answers = [""] * len(requests)
            while engine.has_work:
                for event in engine.step():
                    if event.answer is not None:
                        if event.answer.error is not None:
                            raise event.answer.error
                        answers[places[event.request_id]] = event.answer.text
            return answers

        def apply_chat_template(
            self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
        ) -> str:
            """The messages as the model is asked them; without a prompt for an answer the last one is continued."""
            messages = [dict(message) for message in chat_history]
            continues = not add_generation_prompt
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=continues
            )

        @property
        def tokenizer_name(self) -> str:
            return type(tokenizer).__name__

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            if not chat_template:
                return None
            if not isinstance(chat_template, bool):
                raise RequestError("a tokenizer here has one chat template", received=chat_template)
            return str(tokenizer.chat_template or "")

    return PellucidLM()


# The harness's names for how many tokens are made at most, the first that is there counts (its normalize_gen_kwargs).
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# What some tasks write and what changes nothing at these values; at any other it would.
_WITHOUT_EFFECT = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True, "early_stopping": False}
USUAL_LENGTH = 256


@dataclass(frozen=True)
class Generation:
    """What a task's ``generation_kwargs`` ask for."""

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: SamplingParams

    def request(self, prompt_ids: Sequence[int], stop_token_ids: Collection[int]) -> Request:
        from pellucid.generate.request import Request

        return Request(
            prompt_ids=prompt_ids,
            max_new_tokens=self.max_new_tokens,
            stop=self.until,
            stop_token_ids=stop_token_ids,
            sampling=self.sampling,
        )


def generation(settings: Mapping[str, Any], context_len: int, *, seed: int = 0) -> Generation:
    """``generation_kwargs`` read as the harness reads them: greedy, unless ``do_sample`` or a temperature above 0 asks
    for drawing. ``seed`` is the request's own, so that repeats of one prompt draw different answers, the same ones
    every time.

    Raises: RequestError naming a key that is not understood, or a value out of range.
    """
    from pellucid.sampling import SamplingParams

    left = {name: value for name, value in settings.items() if value is not None}
    until = left.pop("until", ())
    until = (until,) if isinstance(until, str) else until
    if not isinstance(until, Sequence) or not all(isinstance(stop, str) for stop in until):
        raise RequestError("until must be texts", where="generation_kwargs", received=repr(until)[:80])
    lengths = [left.pop(name) for name in _LENGTHS if name in left]
    length = lengths[0] if lengths else min(USUAL_LENGTH, max(context_len // 2, 1))
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length < context_len:
        raise RequestError(
            "the number of tokens to generate must leave the context room for a prompt",
            where="generation_kwargs",
            expected=f"1 to {context_len - 1}",
            received=repr(length),
        )
    own_seed = left.pop("seed", None)
    wanted = {name: left.pop(name) for name in _SAMPLING if name in left}
    draws = left.pop("do_sample", None)
    if not (draws is None or isinstance(draws, bool)):
        raise RequestError("do_sample must be true or false", where="generation_kwargs", received=repr(draws))
    for name, value in _WITHOUT_EFFECT.items():
        if name in left and left[name] == value:
            del left[name]
    if left:
        raise RequestError(
            "the task asks for what is not known here",
            where="generation_kwargs",
            expected=", ".join(("until", *_LENGTHS, "do_sample", *_SAMPLING, "seed")),
            received=", ".join(f"{name}={value!r}" for name, value in left.items())[:200],
        )
    if draws is None:
        temperature = wanted.get("temperature", 0)
        draws = isinstance(temperature, (int, float)) and temperature > 0
    if own_seed is not None and (isinstance(own_seed, bool) or not isinstance(own_seed, int) or own_seed < 0):
        raise RequestError("the seed must be a whole number", where="generation_kwargs", received=repr(own_seed))
    sampling = SamplingParams(do_sample=draws, **wanted, seed=seed if own_seed is None else own_seed + seed)
    return Generation(tuple(stop for stop in until if stop), length, sampling)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the harness's tasks are asked, in its own words."""

    num_fewshot: int | None = None  # None: as the task says
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None  # None: as the harness has it
    system: str | None = None
    batch_size: int | None = None


def run_tasks(
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    folder: str | None = None,
    limit: int | None = None,
    asking: Asking = Asking(),
) -> dict[str, dict[str, float]]:
    """The figures of each task: ``{"arc_easy": {"acc,none": 0.41, …}}``. ``folder`` holds further tasks as YAML.

    Raises: HarnessError without lm-eval; RequestError where a chat template is asked for and the tokenizer has none.
    """
    from pellucid.text.chat import NativeChat

    if asking.apply_chat_template and tokenizer.chat_template is None and not isinstance(tokenizer, NativeChat):
        raise RequestError("the model has no chat template to ask with", remedy="leave out --apply-chat-template")
    harness = as_harness_model(model, tokenizer, batch_size=asking.batch_size or USUAL_BATCH)
    from lm_eval.evaluator import simple_evaluate  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    multiturn = {} if asking.fewshot_as_multiturn is None else {"fewshot_as_multiturn": asking.fewshot_as_multiturn}
    results: Any = simple_evaluate(
        model=harness,
        tasks=list(tasks),
        task_manager=TaskManager(include_path=folder),
        num_fewshot=asking.num_fewshot,
        apply_chat_template=asking.apply_chat_template,
        system_instruction=asking.system,
        limit=limit,
        bootstrap_iters=0,
        **multiturn,
    )
    return {
        task: {name: value for name, value in figures.items() if isinstance(value, float)}
        for task, figures in results["results"].items()
    }
