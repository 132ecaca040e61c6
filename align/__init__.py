"""The road from raw text to an aligned assistant. Importing this package loads neither torch nor transformers.

A room imports from itself and from those below it:

    nano                     the made world; nothing outside imports it
    cli                      the command `align`
    compare                  PPO against DPO: arms, results, verdict
    evaluate  clean  label   measures; cleaned text; rankings
    ppo  train               the trainers
    judge  report  web       who says which answer is better; what pages are made of; who may reach them
    models                   checkpoints, sampling, scores
    data                     rows, from files to token ids
    run  stats               a run's configuration and record; statistics

To see a run from end to end, read a recipe first (recipes/ beside this package), then `align.run.parse`,
`align.data.prepare`, `align.models.checkpoints`, `align.train.loop` and `align.run.record`, in that order.
"""

import logging
import os
import warnings

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings its maker at every trainer; not from here
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Said at every start of a machine without a GPU; our own first lines name the device
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
# TRL's classes set the old name, and transformers warns of it at every start
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
# torch 2.13 warns of names that DeepSpeed 0.19 calls it by, at every gathering of a step
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)

__version__ = "0.1.0"
