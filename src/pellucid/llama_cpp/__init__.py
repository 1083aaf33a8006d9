"""``Llama`` and ``LlamaGrammar`` as llama-cpp-python's users call them, over this engine; without torch on a CPU."""

from pellucid.llama_cpp.llama import Llama, LlamaGrammar

__all__ = ["Llama", "LlamaGrammar"]
