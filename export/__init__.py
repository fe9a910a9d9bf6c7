"""Checkpoints in, engines out: everything that needs PyTorch."""
