"""Input gradients without autograd: in bfloat16 for the most part, yet close to float32.

The noisy copies of a picture differ little from their mean, and so do their gradients. So the mean runs in float32, and
each copy as its *difference* from the mean in bfloat16, whose rounding is then relative to the difference. Every layer
but ReLU is linear. Before a ReLU let the mean have the value z and the gradient behind it be g, a copy z + d and g + e:

- forward, the copy passes where d > -z, and the difference goes on as max(d, -z) - max(0, -z);
- backward, with m and n (0 or 1) for what the copy and the mean let through, it goes on as m e + (m - n) g.

Differences begin behind the layers of full resolution, where they are still large: there the copies run in float32.
Without copies the forward pass, which decides the masks, is float32, and the backward pass bfloat16.
"""

import operator
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

#: whether the convolutions of oneDNN that take weights in its own order can be used
PACKS = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and platform.machine().lower() in ("x86_64", "amd64")
    and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
)
#: of fewer copies the mean and the differences take as long as the copies themselves
FEWEST_COPIES = 4
RELU_FUNCTIONS = (F.relu, torch.relu, "relu")
ADD_FUNCTIONS = (operator.add, torch.add)
MEAN_FUNCTIONS = (torch.mean, "mean")

Size = tuple[int, ...]


class Affine(nn.Module):
    """A scale and a shift of each channel, tensors (1, C, 1, 1): what a BatchNorm is in evaluation mode."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.only_shifts = bool((scale == 1).all())

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "Affine":
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight.detach(), shift * norm.weight.detach() + norm.bias.detach()
        return cls(scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)

    def difference(self, d: Tensor) -> Tensor:
        return d if self.only_shifts else d.float() * self.scale

    def backward(self, gradient: Tensor, size: Size, exact: bool) -> Tensor:
        return self.difference(gradient)


class Kernel(nn.Module):
    """A convolution with constant weights; on a CPU they are stored in the order that oneDNN reads them."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int], groups: int
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.groups = list(stride), list(padding), groups
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) to (N, K, H', W') in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        if x.device.type != "cpu" or not PACKS:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        if self.packed is None:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.packed = reorder(self.weight.to_mkldnn(), self.padding, self.stride, (1, 1), self.groups)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, self.padding, self.stride, [1, 1], self.groups, "none", [], None
        )
        return out

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # oneDNN's tensors can be neither copied nor pickled


class Conv(nn.Module):
    """A convolution without dilation: values in float32; differences and gradients in `low`."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        groups: int,
        low: torch.dtype,
    ) -> None:
        super().__init__()
        self.low = low
        self.exact = Kernel(weight, bias, stride, padding, groups)
        self.rough = Kernel(weight.to(low), None, stride, padding, groups)
        self.back: Kernel | None = None
        self.exact_back: Kernel | None = None
        edges = [k - 1 - p for k, p in zip(weight.shape[2:], padding, strict=True)]
        if tuple(stride) == (1, 1) and min(edges) >= 0:  # then the gradient is a convolution with the turned weights
            turned = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
            self.back = Kernel(turned.to(low), None, stride, edges, groups)
            self.exact_back = Kernel(turned, None, stride, edges, groups)

    def scaled(self, scale: Tensor) -> "Conv":
        """The same convolution of an input whose channels are multiplied by `scale` (C,) first."""
        kernel = self.exact
        weight = kernel.weight.reshape(kernel.groups, -1, *kernel.weight.shape[1:]) * scale.view(
            kernel.groups, 1, -1, 1, 1
        )
        return Conv(weight.flatten(0, 1), kernel.bias, kernel.stride, kernel.padding, kernel.groups, self.low)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.exact(x))

    def difference(self, d: Tensor) -> Tensor:
        return torch.as_tensor(self.rough(d)).float()

    def backward(self, gradient: Tensor, size: Size, exact: bool) -> Tensor:
        if self.back is not None and self.exact_back is not None:
            return torch.as_tensor(self.exact_back(gradient) if exact else self.back(gradient))
        kernel = self.exact if exact else self.rough
        weight, stride, padding = kernel.weight, kernel.stride, kernel.padding
        sizes = zip(size[2:], gradient.shape[2:], weight.shape[2:], stride, padding, strict=True)
        unread = [n - (m - 1) * step + 2 * p - k for n, m, k, step, p in sizes]
        return F.conv_transpose2d(gradient.to(weight.dtype), weight, None, stride, padding, unread, kernel.groups)


class Mean(nn.Module):
    """The mean over height and width; it and what follows is float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), dtype=torch.float32)

    difference = forward

    def backward(self, gradient: Tensor, size: Size, exact: bool) -> Tensor:
        share = gradient[:, :, None, None] / (size[2] * size[3])
        return share.expand(size).contiguous(memory_format=torch.channels_last)


class Linear(nn.Module):
    """A linear layer, in float32 throughout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(x))

    def difference(self, d: Tensor) -> Tensor:
        return d.float() @ self.linear.weight.T

    def backward(self, gradient: Tensor, size: Size, exact: bool) -> Tensor:
        return gradient @ self.linear.weight


class Add(nn.Module):
    """The sum of two values."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    difference = forward

    def in_place(self, a: Tensor, b: Tensor) -> Tensor:
        return a.add_(b) if a.shape == b.shape else a + b

    def backward(self, gradient: Tensor, size: Size, exact: bool) -> Tensor:
        return gradient


class Relu(nn.Module):
    """max(x, 0); its differences and gradients need masks, and are made by the tape."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()

    def in_place(self, x: Tensor) -> Tensor:
        return x.relu_()


class Tape(nn.Module):
    """A network as a list of steps. Value 0 is the input, value i + 1 the result of step i, which reads the values
    `sources[i]`. From step `split` on, copies run as differences."""

    def __init__(self, steps: list[nn.Module], sources: list[tuple[int, ...]], low: torch.dtype) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.sources = sources
        self.low = low
        convs = [i for i, step in enumerate(steps) if isinstance(step, Conv)]
        strided = [i for i in convs[1:] if max(steps[i].exact.stride) > 1]  # type: ignore[arg-type]
        self.split = strided[0] if strided else len(steps)

    def gradient(self, x: Tensor, at_logits: Callable[[Tensor], Tensor], copies: int) -> Tensor:
        """d loss / d x in float32 for x (N, C, H, W), where at_logits maps logits (N, K) to d loss / d logits.

        Each `copies` consecutive rows of x should differ little, as the noisy copies of one picture do.
        """
        end = len(self.steps)
        together = copies >= FEWEST_COPIES and self.low != torch.float32 and self.split < end
        masks: dict[int, Tensor] = {}  # 1 where a ReLU passes, else 0
        sizes: dict[int, Size] = {}  # of each value without the batch
        values = {0: x.contiguous(memory_format=torch.channels_last)}
        self._values(values, range(self.split if together else end), masks, sizes)
        if not together:
            return self._backward(at_logits(values[end]), sizes, lambda i, g: g * masks.pop(i).to(g.dtype), False)

        mean_masks = {i: mask[::copies] for i, mask in masks.items()}  # any will do, those of the first copy are there
        groups = {k: _rows(value, copies) for k, value in values.items()}
        averages = {k: group.mean(1, keepdim=True) for k, group in groups.items()}
        means = {k: _like(average, values[k]) for k, average in averages.items()}
        values = {k: _like(group - averages[k], values[k]) for k, group in groups.items()}
        before = self._values(means, range(self.split, end), mean_masks, sizes)
        self._differences(values, copies, before, masks)
        gradients = _rows(at_logits(values[end] + means[end].repeat_interleave(copies, 0)), copies)
        average = gradients.mean(1, keepdim=True)
        arriving: dict[int, Tensor] = {}

        def mean_relu(i: int, gradient: Tensor) -> Tensor:
            arriving[i] = gradient
            return gradient * mean_masks[i].to(gradient.dtype)

        def relu(i: int, difference: Tensor) -> Tensor:
            kind = difference.dtype
            mean_mask, gradient = _rows(mean_masks[i], 1).to(kind), _rows(arriving[i], 1).to(kind)
            passes = _rows(difference, copies) + gradient * (1 - mean_mask)
            mask = _rows(masks.pop(i), copies).to(kind)
            return _like(torch.lerp(-gradient * mean_mask, passes, mask), difference)

        mean = self._backward(average.flatten(0, 1), sizes, mean_relu, True)
        difference = self._backward((gradients - average).flatten(0, 1), sizes, relu, False)
        return _like(_rows(difference, copies) + _rows(mean, 1), x)

    def _values(
        self, values: dict[int, Tensor], span: range, masks: dict[int, Tensor], sizes: dict[int, Size]
    ) -> dict[int, Tensor]:
        """Run the steps of `span` in float32. Fills in masks and sizes; returns the inputs of the ReLUs when the
        span ends at the logits."""
        before: dict[int, Tensor] = {}
        for i in span:
            step: Any = self.steps[i]
            inputs = self._inputs(i, values)
            sizes |= {k: tuple(value.shape[1:]) for k, value in zip(self.sources[i], inputs, strict=True)}
            if isinstance(step, Relu):
                masks[i] = _positive(inputs[0], self.low)
                before[i] = inputs[0].clone() if span.start else inputs[0]
            spent = self.sources[i][0] not in (0, *values)  # nobody reads the first input again: it can be overwritten
            values[i + 1] = step.in_place(*inputs) if spent and isinstance(step, Relu | Add) else step(*inputs)
        return before

    def _differences(
        self, values: dict[int, Tensor], copies: int, before: dict[int, Tensor], masks: dict[int, Tensor]
    ) -> None:
        """Run the steps from `split` on, on differences from a mean that has the values `before` before each ReLU."""
        for i in range(self.split, len(self.steps)):
            inputs = self._inputs(i, values)
            step: Any = self.steps[i]
            if isinstance(step, Relu):
                threshold = -_rows(before[i], 1)
                larger = torch.maximum(_rows(inputs[0], copies), threshold)
                masks[i] = _like(_positive(larger - threshold, self.low), inputs[0])
                values[i + 1] = _like(larger.sub_(threshold.clamp_min(0)), inputs[0])
            else:
                values[i + 1] = step.difference(*inputs)

    def _inputs(self, i: int, values: dict[int, Tensor]) -> list[Tensor]:
        """The inputs of step i; a value that no later step reads is forgotten."""
        inputs = [values[k] for k in self.sources[i]]
        for k in set(self.sources[i]):
            if not any(k in later for later in self.sources[i + 1 :]):
                del values[k]
        return inputs

    def _backward(
        self, gradient: Tensor, sizes: dict[int, Size], relu: Callable[[int, Tensor], Tensor], exact: bool
    ) -> Tensor:
        """From the gradient at the logits to the one at the input, in float32 if `exact`; relu(i, gradient) does
        step i when it is a ReLU."""
        gradients = {len(self.steps): gradient}
        for i in reversed(range(len(self.steps))):
            step: Any = self.steps[i]
            gradient = gradients.pop(i + 1)
            if isinstance(step, Relu):
                gradient = relu(i, gradient)
            else:
                gradient = step.backward(gradient, (len(gradient), *sizes[self.sources[i][0]]), exact)
            for k in self.sources[i]:
                share = gradient.sum_to_size(len(gradient), *sizes[k])
                gradients[k] = gradients[k] + share if k in gradients else share
        return gradients[0].float()


def _positive(x: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where x is positive, else 0; in bfloat16 this is faster than booleans."""
    rounded = x.to(dtype, copy=True)
    return torch.gt(rounded, 0, out=rounded)


def _rows(x: Tensor, copies: int) -> Tensor:
    """x (N, C, H, W), channels last, or (N, C) as (N / copies, copies, H * W * C): broadcasting is fast only so."""
    return x.movedim(1, -1).reshape(len(x) // copies, copies, -1)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """What `_rows` made, in the shape and order that values like x have."""
    return rows.reshape(-1, *x.movedim(1, -1).shape[1:]).movedim(-1, 1)


def make_tape(graph: GraphModule, low: torch.dtype) -> Tape | None:
    """The tape of a traced network, or None when the network has an operation that tapes do not know."""
    steps: list[nn.Module] = []
    sources: list[tuple[int, ...]] = []
    values: dict[Node, int] = {}
    for node in graph.graph.nodes:
        inputs = [a for a in node.all_input_nodes if a.op != "get_attr"]
        if node.op == "output":
            if not steps or values.get(node.args[0]) != len(steps):
                return None
            _move_scales(steps, sources)
            return Tape(steps, sources, low)
        if not node.users:
            return None
        if node.op == "placeholder" and not values:
            values[node] = 0
        elif node.op != "get_attr":
            step = _step(graph, node, low) if inputs else None
            if step is None:
                return None
            steps.append(step)
            sources.append(tuple(values[a] for a in node.args if isinstance(a, Node) and a in values))
            values[node] = len(steps)
    return None


def _step(graph: GraphModule, node: Node, low: torch.dtype) -> nn.Module | None:
    """The step that computes what `node` computes, None when there is none."""
    others = list(node.args[1:])
    if node.op == "call_module" and not node.kwargs:
        module = graph.get_submodule(str(node.target))
        if type(module) is nn.Conv2d and module.dilation == (1, 1) and module.padding_mode == "zeros":
            weight, bias, padding = module.weight, module.bias, module.padding
            if not isinstance(padding, str):
                return Conv(weight, bias, module.stride, padding, module.groups, low)
        if type(module) is nn.Linear:
            return Linear(module)
        if type(module) is nn.ReLU and not module.inplace:
            return Relu()
        return module if isinstance(module, Affine) else None
    if node.target in RELU_FUNCTIONS and not others and not node.kwargs.get("inplace", False):
        return Relu()
    if node.kwargs:
        return None
    if node.target in ADD_FUNCTIONS and len(others) == 1 and all(isinstance(a, Node) for a in node.args):
        return None if any(a.op == "get_attr" for a in node.all_input_nodes) else Add()
    if node.target in MEAN_FUNCTIONS and others in ([(2, 3)], [[2, 3]], [(-2, -1)], [[-2, -1]]):
        return Mean()
    if node.target in (operator.sub, operator.truediv) and isinstance(others[0], Node) and others[0].op == "get_attr":
        constant = operator.attrgetter(str(others[0].target))(graph)
        if constant.ndim == 4 and constant.shape == (1, constant.shape[1], 1, 1):
            if node.target is operator.sub:
                return Affine(torch.ones_like(constant), -constant)
            return Affine(1 / constant, torch.zeros_like(constant))
    return None


def _move_scales(steps: list[nn.Module], sources: list[tuple[int, ...]]) -> None:
    """Move the positive scales of an Affine through the ReLU behind it into the convolutions that follow, in place:
    fewer operations and fewer roundings."""
    readers: list[list[int]] = [[i for i, inputs in enumerate(sources) if k in inputs] for k in range(len(steps) + 1)]
    for i, step in enumerate(steps):
        if not isinstance(step, Affine) or len(readers[i + 1]) != 1:
            continue
        relu = readers[i + 1][0]
        convs = [(k, steps[k]) for k in readers[relu + 1]]
        if isinstance(steps[relu], Relu) and convs and all(isinstance(conv, Conv) for _, conv in convs):
            size = step.scale.abs().where(step.scale != 0, 1)
            steps[i] = Affine(step.scale / size, step.shift / size)
            for k, conv in convs:
                steps[k] = conv.scaled(size.flatten())  # type: ignore[operator]
