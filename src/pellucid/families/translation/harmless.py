"""Keys that no family reads: which are harmless, and which would change the numbers.

A config says what is computed. A key of it that nobody interprets is either known to change nothing, or it is reported;
where its name says that it changes the numbers, the model is refused rather than computed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from pellucid.base.errors import UnsupportedError
from pellucid.base.typed import shown

# Keys of config.json that change no logit: who wrote the file, training, heads of other tasks, defaults of generation
# (which generation_config.json holds nowadays), and how transformers runs the model. Sources: real configs since 2019;
# transformers' PreTrainedConfig and the configs of the families here.
HARMLESS = (
    *("_*name_or_path", "_commit_hash", "_num_labels", "_attn_implementation*", "attn_implementation", "_flash_attn*"),
    *("architectures", "auto_map", "custom_pipelines", "tokenizer_class", "transformers*", "language", "languages"),
    *("torch_dtype", "dtype", "torchscript", "use_bfloat16", "xla_device", "use_cache", "return_dict*", "output_*"),
    *("is_llama_config", "model_max_length", "max_sequence_length", "name", "author", "license", "unsloth*", "xpu"),
    *("initializer_*", "init_*", "*dropout*", "*pdrop", "layerdrop", "gradient_checkpointing", "pretraining_tp"),
    *("router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef", "aux_loss_alpha", "ep_size"),
    *("task_specific_params", "finetuning_task", "problem_type", "num_labels", "id2label", "label2id", "summary_*"),
    *("predict_special_tokens", "output_past", "chunk_size_feed_forward", "is_decoder", "is_encoder_decoder"),
    *("tie_encoder_decoder", "tf_legacy_loss", "prefix", "*_token_id", "*_token_ids", "suppress_tokens"),
    *("begin_suppress_tokens", "bad_words_ids", "do_sample", "num_return_sequences", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "tp_plan", "base_model_tp_plan", "base_model_pp_plan", "keys_to_ignore*"),
    *("num_logits_to_keep", "logits_to_keep"),
    *("experts_implementation", "_experts_implementation", "finetuned", "use_kernels", "training_args", "train_*"),
)

# Defaults of generation that configs of old carry: harmless at the value that means "no change", else reported.
GENERATION: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (50, 0),
    "top_p": (1.0,),
    "typical_p": (1.0,),
    "min_p": (0.0,),
    "max_length": (20,),
    "max_new_tokens": (),
    "min_length": (0,),
    "repetition_penalty": (1.0,),
    "length_penalty": (1.0,),
    "diversity_penalty": (0.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "early_stopping": (False,),
}

# Names of mechanisms: of rotation, attention, norms, scales, experts and other mixers.
CHANGES_NUMBERS = (
    *("rope*", "*_rope*", "*mrope*", "*rotary*", "attention*", "*attn*", "*bias*", "*scale*", "*scaling*", "*softcap*"),
    *("*multiplier*", "*expert*", "*norm*", "*window*", "*sliding*", "*layer_types*", "*router*", "*moe*", "*alibi*"),
    *("*parallel*", "*mup*", "*sink*", "*clip*", "*residual*", "*cross_attention*", "*bidirectional*", "*causal*"),
    *("hidden_act*", "*activation*", "*head_dim*", "*_heads", "*kv_*", "*qkv*", "qk_*", "*position_embedding*"),
    *("*pruned*", "*topk*", "*n_group*", "first_k_dense*", "*ssm*", "*mamba*", "*conv_*", "*_rank", "*logit*"),
    *("*altup*", "*laurel*", "*per_layer*", "*quantiz*", "alpha", "*_factor", "*theta*", "*embedding*"),
)

_OF_SCALE = ("scale", "scaling", "multiplier", "factor")


def is_harmless(name: str, value: Any, known: Iterable[str] = ()) -> bool:
    """Whether a key that nobody reads is known to change nothing; ``known`` are patterns of the family's own."""
    if name in GENERATION:
        return value is None or value in GENERATION[name]
    return any(fnmatchcase(name, pattern) for pattern in (*HARMLESS, *known))


def is_neutral(name: str, value: Any) -> bool:
    """Whether the value switches a mechanism of that name off: absent, false, empty, a factor of 1, a size of 0."""
    if value is None or value is False or value in ("", "none", "default", [], {}):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value == (1 if any(word in name for word in _OF_SCALE) else 0)
    return isinstance(value, list) and name == "layer_types" and set(map(str, value)) == {"full_attention"}


def changes_numbers(name: str) -> bool:
    """Whether a key's name says that it changes what is computed."""
    return any(fnmatchcase(name, pattern) for pattern in CHANGES_NUMBERS)


def refuse_unread(unread: Mapping[str, Any], where: object, known: Iterable[str] = ()) -> None:
    """Raises: UnsupportedError naming a key that nobody interprets and that would change the numbers."""
    for name, value in unread.items():
        if changes_numbers(name) and not is_harmless(name, value, known) and not is_neutral(name, value):
            raise UnsupportedError(
                f"{name if name.isprintable() else shown(name)} = {shown(value)} is not implemented",
                where=where,
                remedy="without it the model would compute something else; remove the key only if it has no effect",
            )


def to_report(unread: Mapping[str, Any], known: Iterable[str] = ()) -> list[str]:
    """The keys among them of which nobody knows what they mean."""
    return [
        name
        for name, value in unread.items()
        if value is not None
        and not is_harmless(name, value, known)
        and not (changes_numbers(name) and is_neutral(name, value))
    ]


def suspicious(hf: Mapping[str, Any], most: int = 1000) -> list[str]:
    """The keys of a whole config, of its first so many, whose names and values say that something is computed."""
    first = islice(hf.items(), most)  # a stranger's file may have a million, and patterns take a while
    return [name for name, value in first if len(name) <= 80 and changes_numbers(name) and to_report({name: value})]
