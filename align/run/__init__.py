"""A run: how it is configured and started, what it leaves behind, what may follow it. Begin with `parse`.

`arguments` are the dataclasses that recipes share, `flags` TRL's parser over them, `device` what this machine can do.
`launch` compares the processes that came with those that were asked for. `record` writes run.json and metrics.jsonl,
`lineage` reads them, `gates` says whether a parent is good enough, `holds` which files hold people's
work and must not be deleted.
`pipeline` runs a chain of recipes. `errors` is what users meet when something is wrong.
"""
