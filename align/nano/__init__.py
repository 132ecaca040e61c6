"""The nano world: a small made world whose every answer is known, so that alignment can be graded exactly."""
