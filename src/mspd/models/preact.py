"""PreActResNet (He et al. 2016, "Identity mappings in deep residual networks"), any width; and WideResNet
(Zagoruyko and Komodakis 2016), the same block in three stages."""

import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.common import Normalize, conv3x3, initialise


class PreActBlock(nn.Module):
    """BatchNorm - ReLU - conv, twice; a strided or widening block projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        widens = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + residual
        return out


class PreActNet(nn.Module):
    """Stages of :class:`PreActBlock`, a last BatchNorm - ReLU, global average pooling, a linear head.

    Input (B, 3, H, W) in [0, 1]; output (B, num_classes) logits.
    """

    def __init__(
        self, stem: int, widths: tuple[int, ...], depth: int, num_classes: int, stem_stride: int, stats: str
    ) -> None:
        super().__init__()
        self.normalize = Normalize(stats)
        self.stem = conv3x3(3, stem, stem_stride)
        blocks: list[nn.Module] = []
        channels = stem
        for stage, width in enumerate(widths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(PreActBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalize(x)))
        logits: Tensor = self.head(F.relu(self.bn(x)).mean((2, 3)))
        return logits


def preact_resnet18(*, num_classes: int, width: int = 64, stem_stride: int = 1, stats: str = "cifar10") -> PreActNet:
    """PreActResNet-18; width 64 is the published size. `stem_stride` 2 for 64-pixel images."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return PreActNet(width, widths, 2, num_classes, stem_stride, stats)


def wide_resnet(
    *, num_classes: int, depth: int = 16, width: int = 2, stem_stride: int = 1, stats: str = "cifar10"
) -> PreActNet:
    """WideResNet-`depth`-`width`; depth = 6 n + 4 with n blocks in each of three stages."""
    widths = (16 * width, 32 * width, 64 * width)
    return PreActNet(16, widths, (depth - 4) // 6, num_classes, stem_stride, stats)
