"""What is found wrong before a model is loaded: `limits` of values, a run that is `resumed` as another one, and
`versions` of packages (a recipe imports `supported` first, which asks)."""
