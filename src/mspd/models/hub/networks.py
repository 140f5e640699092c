"""Published networks. Their parts bear the names of the published state dicts, which load as they are; images come
normalised (`published.py` says how).

Sources: Gowal et al. 2021 and Rebuffi et al. 2021 (the two `dm_` networks), Peng et al. 2023 (`dm_wide_resnet` with
squeeze and excitation), Zhang et al. 2019 (`wide_resnet`), He et al. 2015 and 2016 as adapted to CIFAR-10 (`resnet18`,
`resnet56`, `preact_resnet18`, `preact_bottlenecks`), Xie et al. 2017 (`resnext29`), Zhang et al. 2020 (`resnest152`),
Debenedetti et al. 2022 (`xcit_l12`), Singh et al. 2023 (`vit_s_convstem`); the others are timm's own.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.extras import timm
from mspd.models.common import conv3x3
from mspd.models.efficientnet import SameConv
from mspd.models.resnet import BasicBlock

Block = Callable[[int, int, int], nn.Module]


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def _stages(block: Block, stem: int, widths: Sequence[int], depths: Sequence[int]) -> list[nn.Sequential]:
    """Stages of block(inputs, outputs, stride); the first block of each later stage halves the size."""
    stages = []
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        first = block(stem, width, 2 if index > 0 else 1)
        stages.append(nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1))))
        stem = width
    return stages


# ---------------------------------------------------------------- WideResNets


class Excite(nn.Module):
    """Squeeze and excitation: each channel times a factor in (0, 1), computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        out: Tensor = x * factor.sigmoid()
        return out


class DMBlock(nn.Module):
    """BatchNorm - SiLU - convolution, twice, with TensorFlow's padding; a widening block projects the activated
    input."""

    def __init__(self, inputs: int, outputs: int, stride: int, excite: float) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = SameConv(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = conv3x3(outputs, outputs)
        self.shortcut = None if inputs == outputs else _conv1x1(inputs, outputs, stride)
        self.se = Excite(outputs, round(excite * outputs)) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.batchnorm_0(x))
        out: Tensor = self.conv_1(F.silu(self.batchnorm_1(self.conv_0(active))))
        if self.se is not None:
            out = self.se(out)
        return out + (x if self.shortcut is None else self.shortcut(active))


class DMWideResNet(nn.Module):
    """Three stages of :class:`DMBlock`."""

    def __init__(
        self, num_classes: int, stem: int, widths: Sequence[int], depths: Sequence[int], excite: float
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return DMBlock(inputs, outputs, stride, excite)

        self.init_conv = conv3x3(3, stem)
        stages = _stages(block, stem, widths, depths)
        self.layer = nn.Sequential(*(nn.Sequential(OrderedDict(block=stage)) for stage in stages))
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.logits = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.batchnorm(self.layer(self.init_conv(x))))
        logits: Tensor = self.logits(x.mean((2, 3)))
        return logits


def dm_wide_resnet(*, num_classes: int = 10, depth: int, width: int) -> DMWideResNet:
    widths = (16 * width, 32 * width, 64 * width)
    return DMWideResNet(num_classes, 16, widths, ((depth - 4) // 6,) * 3, 0.0)


def ra_wide_resnet(
    *,
    num_classes: int = 10,
    stem: int = 96,
    widths: Sequence[int] = (216, 432, 864),
    depths: Sequence[int] = (30, 31, 10),
) -> DMWideResNet:
    """By "robust architectural principles": deep, then narrow, with squeeze and excitation; as large as WRN-70-16."""
    return DMWideResNet(num_classes, stem, widths, depths, 0.25)


class WideBlock(nn.Module):
    """BatchNorm - ReLU - convolution, twice; a widening block projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.convShortcut = None if inputs == outputs else _conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """Three stages of :class:`WideBlock`."""

    def __init__(self, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        stages = _stages(WideBlock, 16, (16 * width, 32 * width, 64 * width), ((depth - 4) // 6,) * 3)
        self.conv1 = conv3x3(3, 16)
        self.block1, self.block2, self.block3 = (nn.Sequential(OrderedDict(layer=stage)) for stage in stages)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return logits


def wide_resnet(*, num_classes: int = 10, depth: int, width: int) -> WideResNet:
    return WideResNet(num_classes, depth, width)


# ---------------------------------------------------------------- ResNets


class DMPreActBlock(nn.Module):
    """BatchNorm - SiLU - convolution, twice, with TensorFlow's padding; a strided block takes its input through a 3 x 3
    convolution, not activated."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = SameConv(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = conv3x3(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else SameConv(inputs, outputs, 3, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(F.silu(self.batchnorm_0(x)))
        out = self.conv_2d_2(F.silu(self.batchnorm_1(out)))
        total: Tensor = out + (x if self.shortcut is None else self.shortcut(x))
        return total


class DMPreActResNet(nn.Module):
    """Four stages of :class:`DMPreActBlock`."""

    def __init__(self, num_classes: int, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        stages = _stages(DMPreActBlock, width, (width, 2 * width, 4 * width, 8 * width), depths)
        self.conv_2d = conv3x3(3, width)
        self.layer_0, self.layer_1, self.layer_2, self.layer_3 = stages
        self.batchnorm = nn.BatchNorm2d(8 * width)
        self.logits = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        logits: Tensor = self.logits(F.silu(self.batchnorm(x)).mean((2, 3)))
        return logits


def dm_preact_resnet18(*, num_classes: int = 10, width: int = 64) -> DMPreActResNet:
    return DMPreActResNet(num_classes, width, (2, 2, 2, 2))


class PlainPreActBlock(nn.Module):
    """BatchNorm - ReLU - convolution, twice; the shortcut projects the input before its activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential() if same else nn.Sequential(_conv1x1(inputs, outputs, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        total: Tensor = self.conv2(F.relu(self.bn2(out))) + self.shortcut(x)
        return total


class PreActBottleneck(nn.Module):
    """BatchNorm - ReLU - convolution, three times (1 x 1, 3 x 3, 1 x 1); a projection, with BatchNorm, takes the
    activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv1x1(inputs, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv1x1(inner, outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn0(x))
        out = self.conv2(F.relu(self.bn1(self.conv1(active))))
        out = self.conv3(F.relu(self.bn2(out)))
        total: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return total


class ResNet(nn.Module):
    """A 3 x 3 stem (with BatchNorm and ReLU where `stem_norm`), stages of blocks, average pooling, a linear head."""

    def __init__(
        self,
        block: Block,
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        num_classes: int,
        *,
        stem_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem) if stem_norm else None
        stages = _stages(block, stem, widths, depths)
        self.names = [f"layer{i}" for i in range(1, len(stages) + 1)]
        for name, stage in zip(self.names, stages, strict=True):
            self.add_module(name, stage)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x))
        for name in self.names:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def resnet18(*, num_classes: int = 10, width: int = 64) -> ResNet:
    return ResNet(BasicBlock, width, (width, 2 * width, 4 * width, 8 * width), (2, 2, 2, 2), num_classes)


def resnet56(*, num_classes: int = 10, width: int = 16, depth: int = 9) -> ResNet:
    return ResNet(BasicBlock, width, (width, 2 * width, 4 * width), (depth,) * 3, num_classes)


def preact_resnet18(*, num_classes: int = 10, width: int = 64) -> ResNet:
    """Without a BatchNorm before the pooling."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNet(PlainPreActBlock, width, widths, (2, 2, 2, 2), num_classes, stem_norm=False)


class Ensemble(nn.Module):
    """The mean of the members' probabilities, as logits: its logarithm."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))


def preact_bottlenecks(
    *, num_classes: int = 10, width: int = 64, depths: Sequence[int] = (3, 4, 6, 3), members: int = 3
) -> Ensemble:
    """Three ResNet-50 of pre-activated bottlenecks."""
    widths = (4 * width, 8 * width, 16 * width, 32 * width)
    return Ensemble([ResNet(PreActBottleneck, width, widths, depths, num_classes) for _ in range(members)])


class ResNeXtBlock(nn.Module):
    """1 x 1, grouped 3 x 3, 1 x 1 convolutions, each with BatchNorm; the inner width is half the outer one."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = outputs // 2
        self.conv_reduce = _conv1x1(inputs, inner)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = conv3x3(inner, inner, stride, groups)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = _conv1x1(inner, outputs)
        self.bn_expand = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_reduce(self.conv_reduce(x)))
        out = F.relu(self.bn(self.conv_conv(out)))
        out = self.bn_expand(self.conv_expand(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNeXt(nn.Module):
    """Three stages of :class:`ResNeXtBlock`."""

    def __init__(self, num_classes: int, width: int, depth: int, groups: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return ResNeXtBlock(inputs, outputs, stride, groups)

        self.conv_1_3x3 = conv3x3(3, width)
        self.bn_1 = nn.BatchNorm2d(width)
        widths = (4 * width, 8 * width, 16 * width)
        self.stage_1, self.stage_2, self.stage_3 = _stages(block, width, widths, (depth,) * 3)
        self.classifier = nn.Linear(16 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_1(self.conv_1_3x3(x)))
        x = self.stage_3(self.stage_2(self.stage_1(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def resnext29(*, num_classes: int = 10, width: int = 64, depth: int = 3, groups: int = 4) -> ResNeXt:
    return ResNeXt(num_classes, width, depth, groups)


# ---------------------------------------------------------------- ResNeSt

RADIX = 4


class SplitAttention(nn.Module):
    """A 3 x 3 convolution into `RADIX` groups of channels, summed with weights that attend to the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels, 32)
        self.conv = nn.Conv2d(channels, RADIX * channels, 3, 1, 1, groups=RADIX, bias=False)
        self.bn0 = nn.BatchNorm2d(RADIX * channels)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.fc2 = nn.Conv2d(squeezed, RADIX * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.bn0(self.conv(x)))
        groups = active.reshape(x.shape[0], RADIX, -1, active.shape[2], active.shape[3])  # (B, RADIX, C, H, W)
        pooled = groups.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(F.silu(self.bn1(self.fc1(pooled)))).reshape(x.shape[0], RADIX, -1, 1, 1).softmax(1)
        summed: Tensor = (groups * weights).sum(1)
        return summed


class ResNeStBlock(nn.Module):
    """1 x 1, split attention, 1 x 1; a strided block averages instead of striding."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = _conv1x1(inputs, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = SplitAttention(inner)
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(3, stride, padding=1)
        self.conv3 = _conv1x1(inner, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            average = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(average, _conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(self.conv2(F.silu(self.bn1(self.conv1(x)))))
        out = self.bn3(self.conv3(out))
        return F.silu(out + (x if self.downsample is None else self.downsample(x)))


class ResNeSt(nn.Module):
    """A stem of three convolutions that keeps the size, four stages of :class:`ResNeStBlock`."""

    def __init__(self, num_classes: int, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        first = (conv3x3(3, width), nn.BatchNorm2d(width), nn.SiLU())
        second = (conv3x3(width, width), nn.BatchNorm2d(width), nn.SiLU())
        self.conv1 = nn.Sequential(*first, *second, conv3x3(width, 2 * width))
        self.bn1 = nn.BatchNorm2d(2 * width)
        widths = (4 * width, 8 * width, 16 * width, 32 * width)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(ResNeStBlock, 2 * width, widths, depths)
        self.fc = nn.Linear(32 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnest152(*, num_classes: int = 10, width: int = 64, depths: Sequence[int] = (3, 8, 36, 3)) -> ResNeSt:
    return ResNeSt(num_classes, width, depths)


# ---------------------------------------------------------------- transformers of timm, adapted


def xcit_l12(*, num_classes: int = 10, width: int = 768, depth: int = 12, heads: int = 16) -> nn.Module:
    """timm's XCiT with patches of 4 instead of 16 pixels: the first two convolutions of its stem do not stride."""
    network: nn.Module = timm().models.xcit.Xcit(
        img_size=32, patch_size=16, num_classes=num_classes, embed_dim=width, depth=depth, num_heads=heads, eta=1.0,
        tokens_norm=True,
    )  # fmt: skip
    for index in ("0", "2"):
        network.get_submodule(f"patch_embed.proj.{index}.0").stride = (1, 1)  # type: ignore[assignment]
    return network


class ConvStem(nn.Module):
    """The patches of a vision transformer, 16 x 16 pixels each, by four strided convolutions instead of one."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wider in (width, 2 * width, 4 * width, 8 * width):
            norm = timm().layers.LayerNorm2d(wider, eps=1e-6)
            layers += [nn.Conv2d(channels, wider, 3, 2, 1), norm, nn.GELU()]
            channels = wider
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.stem(x)
        return patches


def vit_s_convstem(*, num_classes: int = 1000, depth: int = 12) -> nn.Module:
    """timm's DeiT-S with a :class:`ConvStem`."""
    network: nn.Module = timm().create_model("deit_small_patch16_224", num_classes=num_classes, depth=depth)
    network.patch_embed.proj = ConvStem(48, 384)  # type: ignore[union-attr]
    return network


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dm_preact_resnet18": dm_preact_resnet18,
    "dm_wide_resnet": dm_wide_resnet,
    "preact_bottlenecks": preact_bottlenecks,
    "preact_resnet18": preact_resnet18,
    "ra_wide_resnet": ra_wide_resnet,
    "resnest152": resnest152,
    "resnet18": resnet18,
    "resnet56": resnet56,
    "resnext29": resnext29,
    "vit_s_convstem": vit_s_convstem,
    "wide_resnet": wide_resnet,
    "xcit_l12": xcit_l12,
}
