"""EleutherAI's lm-evaluation-harness over a Pellucid model: ``pip install 'pellucid[lm-eval]'``.

    from lm_eval import simple_evaluate
    from pellucid.harness import harness_model

    simple_evaluate(model=harness_model("smollm2"), tasks=["arc_easy"])

or ``pellucid evaluate -m smollm2 --tasks arc_easy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer


class HarnessError(PellucidError, ImportError):
    """lm-eval is not installed."""


def harness_model(name: str, *, dtype: str = "auto", device: str = "auto") -> Any:
    """An ``lm_eval.api.model.LM`` of a model by its name. Raises: HarnessError without lm-eval."""
    from pellucid.auto import load_model

    return as_harness_model(*load_model(name, dtype=dtype, device=device))


def as_harness_model(model: Decoder, tokenizer: Tokenizer) -> Any:
    """An ``lm_eval.api.model.LM`` that answers with this model."""
    try:
        from lm_eval.api.model import LM  # type: ignore[import-not-found]
    except ImportError as error:
        raise HarnessError(f"lm-eval cannot be imported: {error}", remedy="pip install 'pellucid[lm-eval]'") from None
    from pellucid.generate.engine import Engine
    from pellucid.generate.request import Request
    from pellucid.model.executor import TorchExecutor
    from pellucid.sampling import SamplingParams
    from pellucid.train.measure.choices import encode_pair, score
    from pellucid.train.measure.evaluate import evaluate

    class PellucidLM(LM):
        """The three questions that the harness asks."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            scores = score(model, [encode_pair(tokenizer, *request.args) for request in requests])
            return [(its.log_p, its.is_greedy) for its in scores]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            prefix = [] if begin is None else [begin]
            texts = [request.args[0] for request in requests]
            ids = [prefix + tokenizer.encode(text, add_special_tokens=False) for text in texts]
            return [-evaluate(model, its, max(len(text.encode()), 1)).nll for its, text in zip(ids, texts, strict=True)]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            engine = Engine(TorchExecutor(model), tokenizer)
            places = {}
            for place, request in enumerate(requests):
                prompt, how = request.args
                stop = how.get("until") or ()
                new = min(how.get("max_gen_toks", 256), engine.context_len - 1)
                ids = tokenizer.encode(prompt)[-(engine.context_len - new) :]
                sampling = SamplingParams(
                    do_sample=bool(how.get("do_sample")),
                    temperature=how.get("temperature") or 1.0,
                    top_p=how.get("top_p", 1.0),
                    seed=0,
                )
                its = Request(
                    prompt_ids=ids,
                    max_new_tokens=new,
                    stop=[stop] if isinstance(stop, str) else stop,
                    sampling=sampling,
                )
                places[engine.add(its.fit(model.config, engine.context_len))] = place
            answers = [""] * len(requests)
            while engine.has_work:
                for event in engine.step():
                    if event.answer is not None:
                        if event.answer.error is not None:
                            raise event.answer.error
                        answers[places[event.request_id]] = event.answer.text
            return answers

    return PellucidLM()


def run_tasks(
    model: Decoder, tokenizer: Tokenizer, tasks: Sequence[str], *, folder: str | None = None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """The figures of each task: ``{"arc_easy": {"acc,none": 0.41, …}}``. ``folder`` holds further tasks as YAML.

    Raises: HarnessError without lm-eval.
    """
    its = as_harness_model(model, tokenizer)
    from lm_eval.evaluator import simple_evaluate  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    found: Any = simple_evaluate(
        model=its, tasks=list(tasks), task_manager=TaskManager(include_path=folder), limit=limit, bootstrap_iters=0
    )
    return {
        task: {name: value for name, value in its.items() if isinstance(value, float)}
        for task, its in found["results"].items()
    }
