"""What looks at a run: `guards` stop one that goes wrong, `metrics` are its numbers, `report` shows and keeps them."""
