"""EfficientNet-Lite0 (Tan and Le 2019; the Lite variant has no squeeze-and-excitation and uses ReLU6)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mspd.models.common import Enlarge, Normalize

#: expansion, kernel, stride, channels, repeats of each stage (Tan and Le 2019, Table 1)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Depthwise(torch.autograd.Function):
    """Depthwise convolution whose gradients are themselves plain convolutions and sums: the same numbers as PyTorch's
    own, three times faster on CPUs, where its backward pass of depthwise kernels is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pad: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        return F.conv2d(x, weight, None, stride, pad, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, pad, kernel = ctx.stride, ctx.pad, weight.shape[-1]
        rows, columns = ((n - 1) * stride + 1 for n in gradient.shape[2:])
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            spread = gradient
            if stride > 1:
                spread = gradient.new_zeros(*gradient.shape[:2], rows, columns)
                spread = spread.contiguous(memory_format=torch.channels_last)
                spread[:, :, ::stride, ::stride] = gradient
            edge = kernel - 1 - pad
            right, below = x.shape[3] + pad - columns, x.shape[2] + pad - rows
            if (right, below) != (edge, edge):
                spread, edge = F.pad(spread, (edge, right, edge, below)), 0
            x_gradient = F.conv2d(spread, weight.flip(2, 3), None, 1, edge, 1, weight.shape[0])
        if ctx.needs_input_grad[1]:
            weight_gradient = torch.empty_like(weight)
            wide = torch.promote_types(weight.dtype, torch.float32)
            padded = F.pad(x, (pad,) * 4)
            for i in range(kernel):
                for j in range(kernel):
                    window = padded[:, :, i : i + rows : stride, j : j + columns : stride]
                    weight_gradient[:, 0, i, j] = (window * gradient).sum((0, 2, 3), dtype=wide)
        return x_gradient, weight_gradient, None, None


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding: the odd pixel of padding goes to the right and the bottom."""

    #: linear in weight and bias, so that `mspd.prepare` may fold a BatchNorm into it
    foldable = True

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(reversed(x.shape[2:]), self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        pad, weight = pads[0], self.weight
        if len(set(pads)) > 1:  # uneven: PyTorch's convolution pads evenly only
            x, pad = F.pad(x, pads), 0
        if self.groups == 1:
            return F.conv2d(x, weight, self.bias, self.stride, pad)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = Depthwise.apply(x, weight, self.stride[0], pad)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual: expand 1 x 1, depthwise, project 1 x 1."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1, bias=False) if expansion != 1 else None
        self.bn0 = _norm(inner) if expansion != 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self.bn1 = _norm(inner)
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = x
        if self.expand is not None and self.bn0 is not None:
            out = F.relu6(self.bn0(self.expand(out)))
        out = F.relu6(self.bn1(self.depthwise(out)))
        projected: Tensor = self.bn2(self.project(out))
        return projected + x if self.residual else projected


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 that first enlarges small inputs to `resolution` pixels.

    Input (B, 3, H, W) in [0, 1]; output (B, num_classes) logits.
    """

    def __init__(self, *, num_classes: int, resolution: int = 224, stats: str = "half") -> None:
        super().__init__()
        self.enlarge = Enlarge(resolution)
        self.normalize = Normalize(stats)
        self.stem = SameConv(3, 32, 3, 2, bias=False)
        self.bn0 = _norm(32)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, kernel, stride, width, repeats in STAGES:
            for index in range(repeats):
                blocks.append(MBConv(channels, width, expansion, kernel, stride if index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn1 = _norm(1280)
        self.head = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn0(self.stem(self.normalize(self.enlarge(x)))))
        x = F.relu6(self.bn1(self.conv_head(self.blocks(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def efficientnet_lite0(*, num_classes: int, resolution: int = 224, stats: str = "half") -> EfficientNetLite0:
    """EfficientNet-Lite0; see :class:`EfficientNetLite0`."""
    return EfficientNetLite0(num_classes=num_classes, resolution=resolution, stats=stats)
