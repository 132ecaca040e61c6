"""Conversations with models: any run, adapter, folder or hub id, alone or several side by side."""
