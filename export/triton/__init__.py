"""Model repository for NVIDIA's Triton Inference Server."""
