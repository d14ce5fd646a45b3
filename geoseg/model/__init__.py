"""The network, its weights and its decoding. Never imports GIS libraries."""
