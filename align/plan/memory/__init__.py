"""Bytes from shapes, without a model or a configuration: `phases` adds up what `states` and `activations` say of a
`job`."""
