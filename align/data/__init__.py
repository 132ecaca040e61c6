"""Rows, from wherever they are to token ids with masks. Begin with `prepare`, which does it all.

`load` reads files (`lines`), folders (`folders`), runs and the hub; `forms/` says what a row is; `splits` are train
and test, with an account of what was dropped; `pairs` makes preference pairs of rankings; `chat/` is the only place
that touches chat templates; `text` turns prompts and completions into plain text; `preview` shows the first rows as
the model gets them. `overlap/` finds prompts that two sets share.
"""
