"""People decide what the rules are unsure of. `collect` fills the queue, `queue` reads it, `server` shows it (`page/`).

`decisions` is the file of what was decided, `overrule` puts it above the rules, `grades` measures the rules by it.
"""
