"""Decoding for many requests at once: one cache for all slots, one call for all of them, on a GPU one graph a size."""
