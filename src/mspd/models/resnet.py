"""ResNet (He et al. 2015, "Deep residual learning"): basic blocks and bottlenecks, those of ResNeXt with grouped
convolutions (Xie et al. 2017)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.common import Normalize, conv3x3, initialise


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, each followed by BatchNorm; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + residual)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (in groups), 1 x 1 convolutions, the first two `inner` channels wide."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + residual)


class ResNet(nn.Module):
    """A 3 x 3 stem, stages of blocks (the first of each later stage halves the size), average pooling, linear head.

    Input (B, 3, H, W) in [0, 1]; output (B, num_classes) logits.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        stem: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        num_classes: int,
        stem_stride: int,
        stats: str,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(stats)
        self.stem = conv3x3(3, stem, stem_stride)
        self.bn = nn.BatchNorm2d(stem)
        blocks: list[nn.Module] = []
        channels = stem
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                blocks.append(block(channels, width, 2 if stage > 0 and index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(self.normalize(x))))
        logits: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits


def resnet18(*, num_classes: int, width: int = 64, stem_stride: int = 1, stats: str = "cifar10") -> ResNet:
    """ResNet-18 with the 3 x 3 stem of small images; width 64 is the published size."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNet(BasicBlock, width, widths, (2, 2, 2, 2), num_classes, stem_stride, stats)


def resnet20(*, num_classes: int, width: int = 16, stem_stride: int = 1, stats: str = "cifar10") -> ResNet:
    """The 20-layer CIFAR ResNet of the original paper: three stages of three basic blocks."""
    return ResNet(BasicBlock, width, (width, 2 * width, 4 * width), (3, 3, 3), num_classes, stem_stride, stats)


def resnet56(*, num_classes: int, width: int = 16, stem_stride: int = 1, stats: str = "cifar10") -> ResNet:
    """The 56-layer CIFAR ResNet: three stages of nine basic blocks."""
    return ResNet(BasicBlock, width, (width, 2 * width, 4 * width), (9, 9, 9), num_classes, stem_stride, stats)


def resnet50(*, num_classes: int, width: int = 64, stem_stride: int = 1, stats: str = "cifar10") -> ResNet:
    """ResNet-50, bottlenecks of four times `width` in the first stage, with the 3 x 3 stem of small images; width 64 is
    the published size."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return Bottleneck(inputs, outputs, stride, outputs // 4)

    widths = (4 * width, 8 * width, 16 * width, 32 * width)
    return ResNet(block, width, widths, (3, 4, 6, 3), num_classes, stem_stride, stats)


def resnext(
    *,
    num_classes: int,
    widths: tuple[int, ...] = (64, 128, 256),
    depths: tuple[int, ...] = (3, 3, 3),
    group_width: int = 16,
    stem_stride: int = 1,
    stats: str = "cifar10",
) -> ResNet:
    """ResNeXt for small images; `group_width` channels in each group of the 3 x 3 convolutions."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return Bottleneck(inputs, outputs, stride, outputs // 2, max(1, outputs // 2 // group_width))

    return ResNet(block, 32, tuple(widths), tuple(depths), num_classes, stem_stride, stats)
