"""Conversations with models, in the terminal and on a page: any run, adapter, folder or hub id, several side by side.

Begin with `conversation` and `speakers`; `terminal` and `server` show it, `worker` answers pages in turn.
"""
