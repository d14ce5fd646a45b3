"""The CPU engine of the forward pass."""
