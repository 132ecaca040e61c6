"""What is found wrong before a model is loaded: `limits` of values, a run that is `resumed` as another one."""
