"""Experts that are PyTorch modules."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from export.config.contract import Images, Outputs, Signature
from export.graph.conversion import onnx_from_module


class TorchExpert:
    """A module that maps uint8 (N, H, W, 3) per input to one tensor per output."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        """Puts the module into evaluation mode."""
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.signature = signature

    def write_onnx(self, path: Path) -> None:
        """Writes the module as ONNX."""
        onnx_from_module(self.module, self.signature, path)

    def reference(self, images: Images) -> Outputs:
        """Runs the module, one face at a time."""
        columns = [torch.from_numpy(images[spec.name]) for spec in self.signature.inputs]
        with torch.inference_mode():
            rows = [
                self.module(*(column[i : i + 1] for column in columns))
                for i in range(len(columns[0]))
            ]
        return {
            name: torch.cat([row[position] for row in rows]).numpy()
            for position, name in enumerate(self.signature.outputs)
        }
