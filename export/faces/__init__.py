"""Drawn faces of known age, verification faces and quantization faces."""
