"""ResNeSt (Zhang et al. 2020, "Split-attention networks"): bottlenecks whose 3 x 3 convolution is split in two, the
halves weighted channel by channel by what the whole picture holds."""

import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.common import conv3x3
from mspd.models.resnet import ResNet, projection

#: splits of each convolution, the paper's radix
SPLITS = 2


class SplitAttention(nn.Module):
    """A 3 x 3 convolution in SPLITS groups and their attention-weighted sum."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels * SPLITS, stride, SPLITS)
        self.bn = nn.BatchNorm2d(channels * SPLITS)
        hidden = max(channels // 2, 16)
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels * SPLITS)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.conv(x)))
        parts = out.view(len(x), SPLITS, -1, *out.shape[2:])
        seen = F.relu(self.down(parts.sum(1).mean((2, 3))))
        weights = self.up(seen).view(len(x), SPLITS, -1).softmax(1)
        total: Tensor = (parts * weights[..., None, None]).sum(1)
        return total


class Block(nn.Module):
    """1 x 1, split attention, 1 x 1; the inner width is a quarter of the outer one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.attention = SplitAttention(inner, stride)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        out = self.attention(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn3(self.conv3(out)) + residual)


def resnest(
    *,
    num_classes: int,
    width: int = 32,
    depths: tuple[int, ...] = (2, 2, 2),
    stem_stride: int = 1,
    stats: str = "cifar10",
) -> ResNet:
    """ResNeSt for small images; blocks of four times `width` in the first stage."""
    widths = tuple(4 * width * 2**stage for stage in range(len(depths)))
    return ResNet(Block, width, widths, tuple(depths), num_classes, stem_stride, stats)
