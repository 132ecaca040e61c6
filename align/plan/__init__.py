"""What a run will need, told from its configuration before anything is loaded. Begin with `program`.

`configured` reads a recipe's settings as the recipe does, `shape` a checkpoint's layout, `lengths` its rows; together
they are a job. `memory` says what a job needs in which phase, `moves` looks for changes that make it fit, `work` counts
tokens, steps and time. docs/plan.md has the sources.
"""
