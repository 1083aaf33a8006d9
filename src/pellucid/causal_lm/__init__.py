"""``AutoModelForCausalLM``: the torch decoder with the methods, and the words, that Hugging Face users know."""

from pellucid.causal_lm.auto import AutoModelForCausalLM
from pellucid.causal_lm.model import CausalLM
from pellucid.causal_lm.output import CausalLMOutput, GenerateOutput
from pellucid.causal_lm.past import PastKeyValues

__all__ = ["AutoModelForCausalLM", "CausalLM", "CausalLMOutput", "GenerateOutput", "PastKeyValues"]
