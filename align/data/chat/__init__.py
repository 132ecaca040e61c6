"""Messages to text, token ids, masks and stop ids: the only room that touches chat templates.

Begin with encode.py. Below it, batches.py (the texts of many rows tokenised together), templates.py (what a template is
told, and whether it said it), set_up.py (a tokenizer's template, pad and stop tokens), dates.py (templates that read
today's date), reasoning.py (thoughts and answers apart).
"""

from align.data.chat.batches import Steps, alone, together
from align.data.chat.dates import pinned, pinned_in
from align.data.chat.encode import (
    Encoded,
    decode_answer,
    encode_messages,
    encode_pair,
    encode_prompt,
    messages_steps,
    pair_steps,
    prompt_steps,
)
from align.data.chat.set_up import set_up_tokenizer, stop_ids
from align.data.chat.templates import Messages, TemplateError, beside, not_read, render

__all__ = [
    "Encoded", "Messages", "Steps", "TemplateError", "alone", "beside", "decode_answer", "encode_messages",
    "encode_pair", "encode_prompt", "messages_steps", "not_read", "pair_steps", "pinned", "pinned_in", "prompt_steps",
    "render", "set_up_tokenizer", "stop_ids", "together",
]  # fmt: skip
