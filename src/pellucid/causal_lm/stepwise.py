"""Answers token by token, for calls that want a say in each: rules, criteria, beams, scores, states in and out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.base.notice import notice
from pellucid.causal_lm import rules
from pellucid.causal_lm.beams import BeamSearch
from pellucid.causal_lm.forward import Called
from pellucid.causal_lm.output import GenerateOutput
from pellucid.causal_lm.past import PastKeyValues
from pellucid.causal_lm.rows import Rows
from pellucid.generate import Streamer
from pellucid.generate.generation_config import GenerationConfig
from pellucid.sampling import SamplingParams, SamplingState, choose, penalized, warped


@dataclass
class Stepwise:
    """One call. ``ids`` (B, T) are the prompts as they were given, ``prompts`` the same without padding."""

    model: Called
    ids: Tensor
    prompts: list[list[int]]
    mask: Tensor | None
    embeds: Tensor | None
    past: PastKeyValues | None
    sampling: SamplingParams
    ends: tuple[int, ...]
    stop: tuple[str, ...]
    tokenizer: Any
    pad: int
    answers: int
    max_new_tokens: int
    settings: GenerationConfig
    processors: Sequence[Any]
    criteria: Sequence[Any]
    allowed: Any
    streamer: Streamer | None

    @torch.no_grad()
    def run(self) -> Tensor | GenerateOutput:
        self._check()
        beams = self.settings.num_beams or 1
        out = self._draw() if beams == 1 else self._search(beams)
        if not self.settings.return_dict_in_generate:
            return out.sequences
        if self.settings.output_hidden_states or self.settings.output_attentions:
            self._look(out)
        return out

    def _check(self) -> None:
        beams, texts = self.settings.num_beams or 1, self.stop
        if texts and self.tokenizer is None:
            raise RequestError("stop strings need the tokenizer", remedy="generate(…, tokenizer=tokenizer)")
        if beams < 1 or (beams > 1 and self.answers > beams):
            raise RequestError(
                "num_beams is out of range", expected=f"at least num_return_sequences = {self.answers}", received=beams
            )
        if beams > 1 and self.sampling.do_sample:
            raise RequestError("beams are searched, not drawn", remedy="do_sample=False, or num_beams=1")
        if beams > 1 and (self.settings.output_scores or self.settings.output_logits):
            notice(
                "of beams, the scores of each step are not kept: scores, logits and beam_indices are None; "
                "sequences_scores has each answer's"
            )
        if beams > 1 and (self.streamer is not None or self.past is not None):
            raise RequestError("a streamer, or past_key_values, goes with one beam")
        if self.streamer is not None and len(self.prompts) * self.answers != 1:
            raise RequestError("a streamer takes one answer to one prompt", received=f"{len(self.prompts)} prompts")
        if self.past is not None and len(self.prompts) != 1:
            raise RequestError("past_key_values goes with one prompt", received=f"{len(self.prompts)} prompts")

    # --- one token after another -------------------------------------------------------------------------------------

    def _draw(self) -> GenerateOutput:
        n, count = self.answers, len(self.prompts) * self.answers
        prompts = [prompt for prompt in self.prompts for _ in range(n)]
        states = [SamplingState(self.sampling, prompt, i % n) for i, prompt in enumerate(prompts)]
        texts = self.ids.repeat_interleave(n, 0)
        rows, logits = self._begin(prompts)
        applied, live = self._rules(1), [True] * count
        raw, scored, begun = [], [], time.monotonic()
        if self.streamer is not None:
            self.streamer.put(self.ids.cpu().numpy())
        for step in range(self.max_new_tokens):
            scores = np.stack([penalized(row, state) for row, state in zip(_numpy(logits), states, strict=True)])
            ruled = torch.from_numpy(scores)
            for rule in applied:
                ruled = rule(texts.cpu(), ruled)
            scores = ruled.numpy()
            if self.settings.output_logits:
                raw.append(logits.clone())
            if self.settings.output_scores:
                pairs = zip(scores, states, strict=True)
                scored.append(torch.from_numpy(np.stack([warped(row, state) for row, state in pairs])))
            tokens: list[int | None] = [
                choose(row, state) if alive else None for row, state, alive in zip(scores, states, live, strict=True)
            ]
            said = [self.pad if token is None else token for token in tokens]
            texts = torch.cat((texts, torch.tensor(said, device=texts.device)[:, None]), 1)
            for state, token in zip(states, tokens, strict=True):
                if token is not None:
                    state.append(token)
            if self.streamer is not None:
                self.streamer.put(np.array(said))
            ended = self._ended(texts, step + 1, torch.from_numpy(scores), begun)
            live = [a and token not in self.ends and not e for a, token, e in zip(live, tokens, ended, strict=True)]
            if not any(live) or step + 1 == self.max_new_tokens:
                break
            logits = rows.append([token if alive else None for token, alive in zip(tokens, live, strict=True)])
        if self.streamer is not None:
            self.streamer.end()
        return GenerateOutput(
            sequences=texts,
            scores=tuple(scored) if self.settings.output_scores else None,
            logits=tuple(raw) if self.settings.output_logits else None,
            past_key_values=self._left(rows) if count == 1 and self.settings.return_dict_in_generate else None,
        )

    def _begin(self, prompts: list[list[int]]) -> tuple[Rows, Tensor]:
        longest = max(len(prompt) for prompt in prompts) + (0 if self.embeds is None else self.embeds.shape[1])
        rows = Rows(self.model, prompts, longest + self.max_new_tokens)
        if self.embeds is not None:
            return rows, rows.embedded(self.embeds.repeat_interleave(self.answers, 0))
        if self.past is not None:
            return rows, rows.after(self.past.cache)
        return rows, rows.first()

    def _left(self, rows: Rows) -> PastKeyValues:
        left = PastKeyValues(self.model.config, 1, 0, self.model.dtype, self.model.device)
        left.cache = rows.cache(0)
        return left

    def _ended(self, texts: Tensor, length: int, scores: Tensor, begun: float) -> list[bool]:
        """Rows that somebody stops, or a stop string does."""
        ended = [False] * len(texts)
        if self.settings.max_time is not None and time.monotonic() - begun > self.settings.max_time:
            return [True] * len(texts)
        for criterion in self.criteria:
            said = criterion(texts, scores)
            each = said.tolist() if isinstance(said, Tensor) and said.ndim else [bool(said)] * len(texts)
            ended = [a or b for a, b in zip(ended, each, strict=True)]
        if self.stop:
            new = [self.tokenizer.decode(row, skip_special_tokens=False) for row in texts[:, -length:].tolist()]
            ended = [end or any(text in said for text in self.stop) for end, said in zip(ended, new, strict=True)]
        return ended

    def _rules(self, per_prompt: int) -> list[rules.Rule]:
        """Those that the settings name, then the caller's own."""
        settings, made = self.settings, []
        if size := settings.no_repeat_ngram_size:
            made.append(rules.no_repeated(size))
        if words := settings.bad_words_ids:
            made.append(rules.never(words, self.model.config.vocab_size))
        least = settings.min_length or 0
        if settings.min_new_tokens:
            least = self.ids.shape[1] + settings.min_new_tokens
        if least and self.ends:
            made.append(rules.not_yet(self.ends, least))
        if self.allowed is not None:
            made.append(rules.only(self.allowed, per_prompt * self.answers if per_prompt == 1 else per_prompt))
        return [*made, *(_on_ids(processor) for processor in self.processors)]

    # --- beams -------------------------------------------------------------------------------------------------------

    def _search(self, beams: int) -> GenerateOutput:
        applied = self._rules(beams)
        found = []
        for i, prompt in enumerate(self.prompts):
            padding = [self.pad] * (self.ids.shape[1] - len(prompt))
            search = BeamSearch(
                num_beams=beams,
                max_new_tokens=self.max_new_tokens,
                ends=self.ends,
                length_penalty=1.0 if self.settings.length_penalty is None else self.settings.length_penalty,
                early_stopping=self.settings.early_stopping or False,
                process=self._processed(applied, padding),
                stopped=self._stopped(len(prompt)),
            )
            rows = Rows(self.model, [prompt], len(prompt) + self.max_new_tokens)
            logits = rows.first()
            rows.become([0] * beams)
            found += [(i, beam) for beam in search.search(rows, logits)[: self.answers]]
        longest = max(len(beam.token_ids) for _, beam in found)
        sequences = torch.tensor(
            [
                [*self.ids[i].tolist(), *beam.token_ids, *[self.pad] * (longest - len(beam.token_ids))]
                for i, beam in found
            ],
            device=self.ids.device,
        )
        return GenerateOutput(sequences=sequences, sequences_scores=torch.tensor([beam.score for _, beam in found]))

    def _processed(
        self, applied: Sequence[rules.Rule], padding: list[int]
    ) -> Callable[[list[list[int]], Tensor], Tensor]:
        def process(texts: list[list[int]], scores: Tensor) -> Tensor:
            states = [SamplingState(self.sampling, text) for text in texts]
            ruled = torch.from_numpy(
                np.stack([penalized(row, state) for row, state in zip(_numpy(scores), states, strict=True)])
            )
            for rule in applied:
                ruled = rule(torch.tensor([padding + text for text in texts]), ruled)
            return ruled

        return process

    def _stopped(self, prompt: int) -> Callable[[list[int]], bool]:
        if not self.stop and not self.criteria:
            return lambda ids: False

        def stopped(ids: list[int]) -> bool:
            text = self.tokenizer.decode(ids[prompt:]) if self.stop else ""
            said = (criterion(torch.tensor([ids]), torch.empty(1, 0)) for criterion in self.criteria)
            return any(end in text for end in self.stop) or any(bool(torch.as_tensor(each).all()) for each in said)

        return stopped

    # --- a look at what was computed ---------------------------------------------------------------------------------

    def _look(self, out: GenerateOutput) -> None:
        """Hidden states and patterns of each step: those of the prompt, then one position at a time."""
        sequences, prompt = out.sequences, self.ids.shape[1]
        mask = None
        if self.mask is not None:
            before = self.mask.bool().repeat_interleave(len(sequences) // len(self.mask), 0)
            after = torch.ones(len(sequences), sequences.shape[1] - prompt, dtype=torch.bool, device=before.device)
            mask = torch.cat((before, after), 1)[:, :-1]
        whole = self.model(
            sequences[:, :-1],
            attention_mask=mask,
            position_ids=None if mask is None else (mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            output_hidden_states=bool(self.settings.output_hidden_states),
            output_attentions=bool(self.settings.output_attentions),
        )
        spans = [(0, prompt), *((t, t + 1) for t in range(prompt, sequences.shape[1] - 1))]
        if whole.hidden_states is not None:
            out["hidden_states"] = tuple(tuple(h[:, a:b] for h in whole.hidden_states) for a, b in spans)
        if whole.attentions is not None:
            out["attentions"] = tuple(tuple(p[:, :, a:b, :b] for p in whole.attentions) for a, b in spans)


def _on_ids(processor: Any) -> rules.Rule:
    return lambda ids, scores: processor(ids, scores)


def _numpy(logits: Tensor) -> np.ndarray:
    return logits.float().cpu().numpy()
