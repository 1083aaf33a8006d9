"""Readers: one file a kind of vocabulary, each giving the one ``Tokenizer``."""
