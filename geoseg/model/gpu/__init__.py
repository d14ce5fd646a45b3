"""SegNeXt's blocks on CUDA devices, with kernels in Triton."""
