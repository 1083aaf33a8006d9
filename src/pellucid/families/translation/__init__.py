"""Translation: what families share in reading config.json, GGUF metadata and the names of tensors, both ways."""
