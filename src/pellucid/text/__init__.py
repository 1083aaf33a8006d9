"""Text to token ids and back: tokenizers behind one interface, chat templates, the incremental detokenizer."""
