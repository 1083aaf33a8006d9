"""Where models come from: the hub, the catalogue, Python packages; a name becomes a place on disk."""
