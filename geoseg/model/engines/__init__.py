"""Other engines than torch's eager mode: export, compilation, quantization."""
