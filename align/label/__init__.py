"""Rankings by people, models and simulated labelers: one store, one page, one way into the `rankings` schema."""
