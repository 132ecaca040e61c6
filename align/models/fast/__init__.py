"""A Llama layer as two functions with gradients of their own, where a CPU spends its time on small operations."""
