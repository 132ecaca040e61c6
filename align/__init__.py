"""The road from raw text to an aligned assistant. Importing this package loads neither torch nor transformers."""

__version__ = "0.1.0"
