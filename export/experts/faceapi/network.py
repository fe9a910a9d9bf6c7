"""face-api.js's AgeGenderNet: a small Xception with two outputs, in PyTorch.

Layers and names are those of face-api.js (MIT: github.com/justadudewhohacks/face-api.js and
github.com/vladmandic/face-api, src/xception/TinyXception.ts, src/ageGenderNet/AgeGenderNet.ts).
TensorFlow's `same` padding of a stride of 2 over an even side adds one row at the bottom and one
column on the right, and none at the top and on the left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.experts.faceapi.settings import HEAD, NORMALIZATION
from export.graph.preprocessing import Normalize, Readout

_ENTRY_CHANNELS = (32, 64, 128)
_EXIT_CHANNELS = (256, 512)
_MAIN_BLOCKS = 2


class SeparableConv(nn.Module):
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution with a bias."""

    def __init__(self, channels: int, outputs: int) -> None:
        """Creates both convolutions."""
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, outputs, H, W)."""
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]


class ReductionBlock(nn.Module):
    """Two separable convolutions and a max pool, beside a 1×1 convolution; both halve the map."""

    def __init__(self, channels: int, outputs: int, *, activate_input: bool = True) -> None:
        """Creates the layers; `activate_input`: whether a ReLU comes first."""
        super().__init__()
        self.separable_conv0 = SeparableConv(channels, outputs)
        self.separable_conv1 = SeparableConv(outputs, outputs)
        self.expansion_conv = nn.Conv2d(channels, outputs, 1, stride=2)
        # An incomplete last window is what `same` padding of a max pool comes to on even sides.
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.activate_input = activate_input

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W), H and W even, to (N, outputs, H / 2, W / 2)."""
        out = self.separable_conv0(F.relu(x) if self.activate_input else x)
        out = self.pool(self.separable_conv1(F.relu(out)))
        return out + self.expansion_conv(x)  # type: ignore[no-any-return]


class MainBlock(nn.Module):
    """Three separable convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        """Creates the convolutions."""
        super().__init__()
        self.separable_conv0 = SeparableConv(channels, channels)
        self.separable_conv1 = SeparableConv(channels, channels)
        self.separable_conv2 = SeparableConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        out = self.separable_conv0(F.relu(x))
        out = self.separable_conv1(F.relu(out))
        return x + self.separable_conv2(F.relu(out))  # type: ignore[no-any-return]


class FaceApiNetwork(nn.Module):
    """From normalized pixels to the outputs of both fully connected layers."""

    def __init__(self) -> None:
        """Creates all layers, under the names of the published weights."""
        super().__init__()
        first, second, third = _ENTRY_CHANNELS
        fourth, features = _EXIT_CHANNELS
        self.entry_flow = nn.ModuleDict(
            {
                "conv_in": nn.Conv2d(3, first, 3, stride=2),
                "reduction_block_0": ReductionBlock(first, second, activate_input=False),
                "reduction_block_1": ReductionBlock(second, third),
            }
        )
        self.middle_flow = nn.ModuleDict(
            {f"main_block_{index}": MainBlock(third) for index in range(_MAIN_BLOCKS)}
        )
        self.exit_flow = nn.ModuleDict(
            {
                "reduction_block": ReductionBlock(third, fourth),
                "separable_conv": SeparableConv(fourth, features),
            }
        )
        self.fc = nn.ModuleDict({"age": nn.Linear(features, 1), "gender": nn.Linear(features, 2)})

    def features(self, image: Tensor) -> Tensor:
        """Maps (N, 3, 112, 112) to the inputs of the last layers, (N, 512)."""
        out = F.relu(self.entry_flow["conv_in"](F.pad(image, (0, 1, 0, 1))))
        for flow in (self.entry_flow, self.middle_flow, self.exit_flow):
            for name, block in flow.items():
                if name != "conv_in":
                    out = block(out)
        return F.relu(out).mean(dim=(2, 3))  # the average pool's window is the whole map, 7×7

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 3, 112, 112) to the age (N, 1) and two gender logits (N, 2), male first."""
        features = self.features(image)
        return self.fc["age"](features), self.fc["gender"](features)


class FaceApiExpert(nn.Module):
    """From uint8 (N, 112, 112, 3) RGB to `age_years` (N,) and `gender_probs` (N, 2)."""

    def __init__(self) -> None:
        """Creates the network between normalization and readout."""
        super().__init__()
        self.normalize = Normalize(NORMALIZATION)
        self.network = FaceApiNetwork()
        self.readout = Readout(HEAD)

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates the age in years, and the probabilities of male and female."""
        age, gender = self.network(self.normalize(face))
        (age_years,) = self.readout(age)
        return age_years, torch.softmax(gender, dim=1)
