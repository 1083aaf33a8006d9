"""A decoder called as transformers' models are: ids and a mask in, logits, a loss, states and a look inside out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.base.arguments import refuse_unknown, without
from pellucid.base.errors import RequestError
from pellucid.base.notice import notice
from pellucid.causal_lm.output import BackboneOutput, CausalLMOutput
from pellucid.causal_lm.past import PastKeyValues
from pellucid.config import ModelConfig
from pellucid.families.hf_config import HFConfig
from pellucid.generate.generation_config import GenerationConfig
from pellucid.model.attend import explicit
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.finite import require_finite

FORWARD_WITHOUT_EFFECT = ("cache_position", "token_type_ids")  # that tokenizers and trainers of transformers pass along
FORWARD = (
    *("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels", "use_cache"),
    *("output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "num_items_in_batch"),
)
ELSEWHERE = {
    "head_mask": "edit the run: trace(model, tokenizer, text, edits=…)",
    "pixel_values": "images are not read here: the text part of the model answers",
    "output_router_logits": 'trace(model, tokenizer, text)["layers.3.router_logits"]',
}


class _Kept:
    """A recorder that keeps the values of a few taps, in order."""

    def __init__(self, *names: str) -> None:
        self.values: dict[str, list[Tensor]] = {name: [] for name in names}

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        if name in self.values:
            self.values[name].append(value)
        return value


class Called(Decoder):
    """A decoder that is called with ids and a mask, or with rows of embeddings, and goes on from where it was."""

    main_input_name = "input_ids"
    base_model_prefix = "model"
    loss_type = "ForCausalLM"  # what transformers' Trainer counts labels by: the loss shifts them
    config: HFConfig  # type: ignore[assignment]
    warnings_issued: dict[str, bool]

    def __init__(self, config: ModelConfig, *, where: object = "") -> None:
        super().__init__(config)
        self.config = HFConfig.of(config, built=True, where=where)
        self.warnings_issued = {}
        self.origin: Path | None = None  # where its tokenizer lies
        self.name_or_path = str(where)  # an attribute of its own: PEFT looks for it in __dict__
        self.mapped = False  # whether it was placed by a device_map
        self._generation_config = GenerationConfig()
        self.not_followed: list[str] = []  # of that config, as it was told when the model was loaded

    # --- the forward pass --------------------------------------------------------------------------------------------

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # Hugging Face's signature; a Context goes to hidden() and logits()
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        past_key_values: PastKeyValues | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        **unknown: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits of every position; with ``labels`` (−100: not counted), the mean cross-entropy of each next token.

        ``labels`` are shifted here: position t is scored on labels[t + 1], as in transformers. Rows may be padded on
        either side; positions follow from the mask. ``inputs_embeds`` in place of ids: rows of the embedding table, or
        what was made of them. ``use_cache`` gives ``past_key_values``, which the next tokens' call takes and adds to.
        ``output_attentions`` goes step by step instead of through the fused kernel. ``logits_to_keep``: of the last so
        many positions, or of those at these places; 0: of all. ``num_items_in_batch``: the loss is the sum over so
        many.
        Raises: NotFiniteError where a number is NaN or infinite, naming layer and tensor; RequestError for ids that are
        no batch; TypeError for an argument that nobody knows. What is given may be on any device.
        """
        refuse_unknown("model(…)", without(unknown, FORWARD_WITHOUT_EFFECT), FORWARD, ELSEWHERE)
        output_attentions, output_hidden_states, return_dict = self._looks(
            output_attentions, output_hidden_states, return_dict
        )
        ids = self._ids(input_ids, inputs_embeds)
        ctx, past, kept = self._context(
            ids, attention_mask, position_ids, past_key_values, use_cache, output_attentions, output_hidden_states
        )
        hidden = self.hidden(ids, ctx)
        if isinstance(logits_to_keep, int):
            hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        else:
            hidden = hidden[:, logits_to_keep]
        logits = self.logits(hidden, ctx)
        if ctx.sums is not None and past_key_values is None:
            require_finite(self, logits, ids, ctx)
        out = CausalLMOutput(
            loss=None if labels is None else _loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=past,
            hidden_states=_stream(kept) if kept and output_hidden_states else None,
            attentions=tuple(kept.values["pattern"]) if kept and output_attentions else None,
        )
        return out.to_tuple() if return_dict is False else out

    def backbone(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        past_key_values: PastKeyValues | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """The same without the head: the stream after the final norm, ``last_hidden_state``."""
        refuse_unknown("model.model(…)", without(unknown, FORWARD_WITHOUT_EFFECT), FORWARD, ELSEWHERE)
        output_attentions, output_hidden_states, return_dict = self._looks(
            output_attentions, output_hidden_states, return_dict
        )
        ids = self._ids(input_ids, inputs_embeds)
        ctx, past, kept = self._context(
            ids, attention_mask, position_ids, past_key_values, use_cache, output_attentions, output_hidden_states
        )
        out = BackboneOutput(
            last_hidden_state=self.hidden(ids, ctx),
            past_key_values=past,
            hidden_states=_stream(kept) if kept and output_hidden_states else None,
            attentions=tuple(kept.values["pattern"]) if kept and output_attentions else None,
        )
        return out.to_tuple() if return_dict is False else out

    def _looks(self, *asked: bool | None) -> tuple[bool, ...]:
        """Attentions, hidden states, a dict: as the call says, else as the config does."""
        names = ("output_attentions", "output_hidden_states", "return_dict")
        return tuple(
            bool(getattr(self.config, name)) if one is None else one for name, one in zip(names, asked, strict=True)
        )

    def _context(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: PastKeyValues | None,
        use_cache: bool | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[Context, PastKeyValues | None, _Kept | None]:
        """One pass: where its tokens stand, what they may see, what is kept of it."""
        batch, count = ids.shape[:2]
        if attention_mask is not None and (attention_mask.ndim != 2 or len(attention_mask) != batch):
            raise RequestError(
                "attention_mask says of each token whether it is one",
                expected=f"({batch}, tokens)",
                received=list(attention_mask.shape),
            )
        past = self._past(past_key_values, use_cache, batch, count)
        attention_mask = None if attention_mask is None else attention_mask.to(ids.device)
        position_ids = None if position_ids is None else position_ids.to(ids.device)
        mask = self._mask(attention_mask, past, ids)
        if position_ids is None:
            counted = torch.ones(batch, count, dtype=torch.long, device=ids.device) if mask is None else mask
            seen = 0 if past is None else past.get_seq_length()
            position_ids = (counted.cumsum(1) - 1).clamp(min=0)[:, -count:] + (seen if mask is None else 0)
            if mask is not None and (self.config.position != "none" or _has_gaps(mask)):
                notice(
                    "positions are counted by attention_mask, from each text's first token; "
                    "transformers counts columns unless position_ids are given"
                )
        looked_at = not torch.compiler.is_compiling() and not ids.is_meta and not ids.is_floating_point()
        looks = output_attentions or output_hidden_states
        kept = _Kept("resid_pre", "resid_post", "final", "pattern") if looks else None
        ctx = Context(
            position_ids,
            cache=None if past is None else past.cache,
            attend=explicit if output_attentions else None,
            recorder=kept,
            key_mask=mask,
            sums=[] if looked_at else None,
        )
        return ctx, past, kept

    def _ids(self, input_ids: Any, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise RequestError("a forward takes input_ids or inputs_embeds, one of them")
        if inputs_embeds is not None:
            return inputs_embeds.to(self.device, self.dtype)
        if (
            not isinstance(input_ids, Tensor)
            or input_ids.ndim != 2
            or 0 in input_ids.shape
            or input_ids.is_floating_point()
        ):
            shown = f"shape {list(input_ids.shape)}" if isinstance(input_ids, Tensor) else type(input_ids).__name__
            raise RequestError(
                "input_ids must be a batch of token ids",
                expected="a tensor of whole numbers (B, T)",
                received=shown,
                remedy='tokenizer(text, return_tensors="pt")["input_ids"], or torch.tensor([ids])',
            )
        return input_ids.to(self.device)

    def _past(self, past: PastKeyValues | None, use_cache: bool | None, batch: int, count: int) -> PastKeyValues | None:
        """The states that this call adds to: those it was given, or new ones where somebody may want them."""
        if past is not None and not isinstance(past, PastKeyValues):
            raise RequestError(
                "past_key_values are what an earlier call of this model gave", received=type(past).__name__
            )
        if use_cache is None:
            use_cache = past is not None or (
                self.config.use_cache and not self.training and not torch.is_grad_enabled()
            )
        if not use_cache:
            if past is not None:
                raise RequestError("past_key_values are added to; use_cache=False goes without them")
            return None
        past = past or PastKeyValues(self.config, batch, count, self.dtype, self.device)
        past.take(count, batch)
        return past

    def _mask(self, mask: Tensor | None, past: PastKeyValues | None, ids: Tensor) -> Tensor | None:
        if past is not None:
            return past.mask_of_all(mask, ids.shape[1])
        return None if mask is None or bool(mask.all()) else mask.bool()

    @property
    def generation_config(self) -> GenerationConfig:  # type: ignore[override]
        """How it answers where a call says nothing."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, settings: Any) -> None:
        self._generation_config = GenerationConfig.of(settings)


def _has_gaps(mask: Tensor) -> bool:
    """Whether some text goes on after padding."""
    begins = mask[:, 0].int() + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    return bool((begins > 1).any())


def _loss(logits: Tensor, labels: Tensor, items: int | Tensor | None) -> Tensor:
    if labels.shape[1] != logits.shape[1]:
        raise RequestError(
            "labels are scored on the logits of every position",
            expected=f"{logits.shape[1]} columns",
            received=labels.shape[1],
        )
    scored, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(logits.device)
    if items is None:
        return F.cross_entropy(scored, wanted)
    return F.cross_entropy(scored, wanted, reduction="sum") / items


def _stream(kept: _Kept) -> tuple[Tensor, ...]:
    """The stream before the first layer and after each; after the last one, normed."""
    first, after = kept.values["resid_pre"][:1], kept.values["resid_post"][:-1]
    return (*first, *after, *kept.values["final"])
