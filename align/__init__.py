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

__version__ = "0.1.0"
