"""PreActResNet (He et al. 2016, "Identity mappings in deep residual networks"), any width; WideResNet (Zagoruyko and
Komodakis 2016), the same block in three stages; and RaWideResNet (Peng et al. 2023, "Robust principles"), which adds
what helps robust networks: a deeper first part, squeeze-and-excitation, a smooth activation."""

from torch import Tensor, nn

from mspd.models.common import ACTIVATIONS, Normalize, conv3x3, initialise


class Squeeze(nn.Module):
    """Each channel times a factor told by all channel means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, max(channels // 8, 8))
        self.up = nn.Linear(max(channels // 8, 8), channels)

    def forward(self, x: Tensor) -> Tensor:
        factor: Tensor = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * factor[:, :, None, None]


class PreActBlock(nn.Module):
    """BatchNorm - activation - conv, twice; a strided or widening block projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, squeeze: bool) -> None:
        super().__init__()
        self.active = ACTIVATIONS[activation]
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.squeeze = Squeeze(outputs) if squeeze else None
        widens = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.active(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(active)
        out = self.conv2(self.active(self.bn2(self.conv1(active))))
        if self.squeeze is not None:
            out = self.squeeze(out)
        total: Tensor = out + residual
        return total


class PreActNet(nn.Module):
    """Stages of :class:`PreActBlock`, a last BatchNorm - activation, global average pooling, a linear head.

    Input (B, 3, H, W) in [0, 1]; output (B, num_classes) logits.
    """

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        num_classes: int,
        stem_stride: int,
        stats: str,
        activation: str = "relu",
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(stats)
        self.stem = conv3x3(3, stem, stem_stride)
        self.active = ACTIVATIONS[activation]
        blocks: list[nn.Module] = []
        channels = stem
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(PreActBlock(channels, width, stride, activation, squeeze))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalize(x)))
        logits: Tensor = self.head(self.active(self.bn(x)).mean((2, 3)))
        return logits


def preact_resnet18(*, num_classes: int, width: int = 64, stem_stride: int = 1, stats: str = "cifar10") -> PreActNet:
    """PreActResNet-18; width 64 is the published size. `stem_stride` 2 for 64-pixel images."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return PreActNet(width, widths, (2, 2, 2, 2), num_classes, stem_stride, stats)


def wide_resnet(
    *,
    num_classes: int,
    depth: int = 16,
    width: int = 2,
    activation: str = "relu",
    stem_stride: int = 1,
    stats: str = "cifar10",
) -> PreActNet:
    """WideResNet-`depth`-`width`; depth = 6 n + 4 with n blocks in each of three stages. activation: relu or silu."""
    widths, depths = (16 * width, 32 * width, 64 * width), ((depth - 4) // 6,) * 3
    return PreActNet(16, widths, depths, num_classes, stem_stride, stats, activation)


def ra_wide_resnet(
    *,
    num_classes: int,
    widths: tuple[int, ...] = (32, 64, 128),
    depths: tuple[int, ...] = (3, 3, 1),
    stem_stride: int = 1,
    stats: str = "cifar10",
) -> PreActNet:
    """RaWideResNet for small images: more blocks early than late, squeeze-and-excitation, SiLU."""
    return PreActNet(widths[0], tuple(widths), tuple(depths), num_classes, stem_stride, stats, "silu", True)
