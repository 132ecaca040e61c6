"""A run: how it is configured and started, what it leaves behind, what may follow it. Begin with `parse`.

`arguments` are the dataclasses that recipes share, `flags` TRL's parser over them, `device` what this machine can do.
`launch` compares the processes that came with those that were asked for. `record` writes run.json and metrics.jsonl,
`lineage` reads them, `gates` says whether a parent is good enough, `holds` which files hold people's
work and must not be deleted.
`pipeline` runs a chain of recipes. `errors` is what users meet when something is wrong.

Importing any of it quiets what libraries say at each start, before one of them is imported.
"""

import logging
import os
import warnings

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings its maker at every trainer; not from here
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # the reason for using its PPO is in pyproject.toml
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Said at every start of a machine without a GPU; our own first lines name the device
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
# TRL 1.12 sets the old name; transformers 5.23 warns of it at every start
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
