"""Memory of the simulated device and pinned memory of the host.

Enforces: an address is valid only between its allocation and its release (none is reused), a range
lies within one allocation, and the device's memory is limited. New and freed memory holds 0xFF
bytes, NaN in float32, so that reads of uninitialized memory show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.gpu.fake_streams import CudaFailure, Span

POISON = 0xFF
_DEVICE_BASE = 0x7F00_0000_0000
_ALIGNMENT = 256


@dataclass(eq=False, slots=True)
class Block:
    """One allocation."""

    kind: str
    """`device`, `pinned`, or `tensorrt` for memory that a context allocated itself."""
    address: int
    array: NDArray[np.uint8]
    live: bool = True

    @property
    def span(self) -> Span:
        return self.address, self.address + self.array.size

    def __str__(self) -> str:
        return f"{self.kind} memory of {self.array.size:,} bytes"


class Memory:
    """All allocations, including freed ones."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.blocks: dict[int, Block] = {}
        self._next = _DEVICE_BASE

    @property
    def free_bytes(self) -> int:
        used = sum(b.array.size for b in self.blocks.values() if b.live and b.kind != "pinned")
        return self.total_bytes - used

    def allocate(self, size: int, kind: str) -> Block:
        if size <= 0:
            raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
        if kind != "pinned" and size > self.free_bytes:
            raise CudaFailure("CUDA_ERROR_OUT_OF_MEMORY")
        array = np.full(size, POISON, np.uint8)
        address = array.ctypes.data if kind == "pinned" else self._place(size)
        self.blocks[address] = block = Block(kind, address, array)
        return block

    def _place(self, size: int) -> int:
        address = self._next
        self._next += -(-size // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        return address

    def block(self, address: int, kind: str) -> Block:
        """Returns the live allocation that begins at an address."""
        block = self.blocks.get(address)
        if block is None or not block.live or block.kind != kind:
            raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
        return block

    def free(self, block: Block) -> None:
        block.live = False
        block.array[:] = POISON

    def view(self, address: int, size: int, kind: str) -> NDArray[np.uint8] | None:
        """Returns the bytes of a range, or None if no live allocation of the kind contains it."""
        for block in self.blocks.values():
            start, end = block.span
            if block.kind.replace("tensorrt", "device") == kind and start <= address < end:
                inside = block.live and address + size <= end
                return block.array[address - start : address - start + size] if inside else None
        return None

    def left(self) -> list[str]:
        return [str(b) for b in self.blocks.values() if b.live and b.kind != "tensorrt"]
