"""The data card of a run. `outcome` puts the numbers together, `page` writes them with `tables` and `figures`."""
