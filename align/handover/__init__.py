"""What a run leaves with: results in the forms that other programs load."""
