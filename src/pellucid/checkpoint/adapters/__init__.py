"""Adapters: what LoRA adds to a model, read, written and folded in."""
