"""Blocks computed and kept: by threads of this process, or on a cluster."""
