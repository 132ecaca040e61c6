"""What is done on a CPU to be fast, and leaves every number where it was: a Llama's layers as two functions with
gradients of their own, and padded batches read without their padding."""
