"""Machines: what this one has and lacks (`align doctor`), and jobs for others (`align slurm`)."""
