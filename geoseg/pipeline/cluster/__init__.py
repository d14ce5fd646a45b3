"""Blocks computed by a dask.distributed cluster."""
