"""``pipeline("text-generation")``: a prompt, or a conversation, in; a text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pellucid.auto import AutoTokenizer
from pellucid.base.errors import RequestError, UnsupportedError
from pellucid.causal_lm.auto import AutoModelForCausalLM

TASKS = ("text-generation",)
DEFAULT = "smollm2"  # of the catalogue


def pipeline(task: str = "text-generation", model: Any = None, tokenizer: Any = None, **loading: Any) -> TextGeneration:
    """A model and its tokenizer as one function; ``model`` is a name or a model, ``loading`` as ``from_pretrained``'s.

    Raises: UnsupportedError for another task.
    """
    if task not in TASKS:
        raise UnsupportedError(
            "models here continue texts", expected=TASKS[0], received=repr(task), remedy=f'pipeline("{TASKS[0]}")'
        )
    name = DEFAULT if model is None else model
    if isinstance(name, str) or hasattr(name, "__fspath__"):
        loaded = AutoModelForCausalLM.from_pretrained(name, **loading.pop("model_kwargs", {}), **loading)
    else:
        loaded = name
    if tokenizer is None or isinstance(tokenizer, str):
        source = tokenizer if isinstance(tokenizer, str) else name if loaded is not name else loaded.origin
        if source is None:
            raise RequestError("this model came with no tokenizer", remedy="pipeline(…, tokenizer=…)")
        tokenizer = AutoTokenizer.from_pretrained(source)
    return TextGeneration(loaded, tokenizer)


class TextGeneration:
    """``pipe("Once upon a time")`` → ``[{"generated_text": "Once upon a time …"}]``."""

    task = TASKS[0]

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(
        self,
        inputs: Any = None,
        *,
        text_inputs: Any = None,
        return_full_text: bool | None = None,
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        add_special_tokens: bool | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[Any]:
        """For a text or a conversation (a list of messages), a list of answers, ``num_return_sequences`` of them; for
        several, a list of such lists. ``return_full_text=False``: without the prompt. ``settings`` as ``generate``'s.
        """
        inputs = text_inputs if inputs is None else inputs
        several = isinstance(inputs, (list, tuple)) and not (inputs and isinstance(inputs[0], Mapping))
        made = [
            self._answers(
                one, return_full_text, return_tensors, clean_up_tokenization_spaces, add_special_tokens, settings
            )
            for one in (inputs if several else [inputs])
        ]
        return made if several else made[0]

    def _answers(
        self, prompt: Any, full: bool | None, tensors: bool, clean: bool | None, special: bool | None, settings: Any
    ) -> list[dict[str, Any]]:
        chat = not isinstance(prompt, str)
        if chat:
            going_on = prompt[-1].get("role") == "assistant"
            ids = self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=not going_on, continue_final_message=going_on, return_dict=False
            )
        else:
            ids = self.tokenizer.encode(prompt, **({} if special is None else {"add_special_tokens": special}))
        out = self.model.generate(torch.tensor([ids], device=self.model.device), tokenizer=self.tokenizer, **settings)
        answers = []
        for row in out.tolist():
            if tensors:
                answers.append({"generated_token_ids": row})
                continue
            new = self.tokenizer.decode(row[len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=clean)
            if full is False:
                answers.append({"generated_text": new})
            elif chat:
                answers.append({"generated_text": [*prompt, {"role": "assistant", "content": new}]})
            else:
                answers.append({"generated_text": prompt + new})
        return answers
