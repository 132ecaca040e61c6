"""A training's first steps: tried out for a dry run (`rehearsal`), begun again where they do not fit (`smaller`)."""
