"""What became of runs: all of a folder as a tree of lineage."""
