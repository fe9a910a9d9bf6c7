"""Two real portraits, both in the public domain, and a network with YuNet's outputs.

The portraits come with installed packages: scikit-image's Eileen Collins (NASA) and Matplotlib's
Grace Hopper (US Navy).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx.parser import parse_model

from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.results import Box

ASTRONAUT_FACE: Box = (177, 66, 95, 95)
GRACE_FACE: Box = (155, 105, 222, 222)


@functools.cache
def astronaut() -> Pixels:
    """uint8 RGB (512, 512, 3), one face."""
    from skimage.data import astronaut as read

    return np.asarray(read(), np.uint8)  # type: ignore[no-untyped-call]


@functools.cache
def grace() -> Pixels:
    """uint8 RGB (600, 512, 3), one face."""
    import matplotlib as mpl

    return load_rgb(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg", ImageLimits())


def tiny_yunet(path: Path) -> Path:
    """A network with YuNet's twelve outputs, for which every white 8×8 block is a face.

    OpenCV reads a box as center (anchor + offset) · stride and size exp(value) · stride, and a
    score as sqrt(cls · obj). Strides 16 and 32 never find anything.
    """
    lines = [
        """pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (input)
           gray = ReduceMean <keepdims = 1> (pooled, channel)
           level = Div (gray, white)
           cls_8 = Reshape (level, column)
           obj_8 = Identity (cls_8)
           half = Mul (cls_8, halves)
           nothing = Mul (cls_8, zero)
           bbox_8 = Concat <axis = 2> (half, half, nothing, nothing)
           kps_8 = Concat <axis = 2> (bbox_8, bbox_8, half, half)"""
    ]
    for by in (2, 4):
        cls, bbox, shape = f"cls_{8 * by}", f"bbox_{8 * by}", [by, by]
        lines.append(
            f"""pool_{by} = AveragePool <kernel_shape = {shape}, strides = {shape}> (level)
                none_{by} = Mul (pool_{by}, zero)
                {cls} = Reshape (none_{by}, column)
                obj_{8 * by} = Identity ({cls})
                {bbox} = Concat <axis = 2> ({cls}, {cls}, {cls}, {cls})
                kps_{8 * by} = Concat <axis = 2> ({bbox}, {bbox}, {cls}, {cls})"""
        )
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    outputs = ", ".join(
        f"float[1, A{stride}, {width}] {name}_{stride}"
        for name, width in widths.items()
        for stride in (8, 16, 32)
    )
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    bright (float[1, 3, H, W] input) => ({outputs})
    <float white = {{255.0}}, float halves = {{0.5}}, float zero = {{0.0}},
     int64[1] channel = {{1}}, int64[3] column = {{1, -1, 1}}>
    {{ {" ".join(lines)} }}"""
    onnx.save(parse_model(text), path)
    return path


def tiny_centerface(path: Path) -> Path:
    """A network with CenterFace's four outputs, whose values are the colors of 4×4 blocks.

    With r, g, b as means of a block within 0..1: heat is r, the logarithms of height and width are
    3g and 3b, the offsets in y and x are g - 0.5 and b - 0.5, and the landmarks are five times
    g, b. As in the published file, the declared sizes are those of one traced batch, and the
    weights are declared as inputs.
    """
    text = f"""<ir_version: 4, opset_import: ["" : 11]>
    colors (float[10, 3, 32, 32] picture, float white, float three, float half) =>
    (float[10, 1, 8, 8] heat, float[10, 2, 8, 8] scale,
     float[10, 2, 8, 8] offset, float[10, 10, 8, 8] landmarks)
    <float white = {{255.0}}, float three = {{3.0}}, float half = {{0.5}}>
    {{ pooled = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (picture)
       level = Div (pooled, white)
       heat, shares = Split <axis = 1, split = [1, 2]> (level)
       scale = Mul (shares, three)
       offset = Sub (shares, half)
       landmarks = Concat <axis = 1> ({", ".join(["shares"] * 5)}) }}"""
    onnx.save(parse_model(text), path)
    return path
