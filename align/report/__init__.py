"""Reports of a comparison or an evaluation: one self-contained HTML page (`page`), or Markdown (`markdown`)."""
