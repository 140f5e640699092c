"""The engine: input gradients of many noisy copies in one fixed compute shape, and the smoothed epoch built on them.

Everything that is slow in mspd happens here. Three rules keep results the same whatever the batch: noise comes from
each image's own generator; the network always runs on the same number of rows, chosen from the picture's size and
n_samples alone; the copies of an image are averaged in a fixed order.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mspd.ball import project, random_offsets, step
from mspd.errors import InputError, first_line
from mspd.guard import answer, check_logits, check_module, check_output, gradient_of, no_autocast
from mspd.objectives import cross_entropy

#: network input of one chunk, in pixels: 20 copies of 64 x 64 on a CPU, 64 copies of 224 x 224 on an accelerator
CHUNK_PIXELS = {"cpu": 20 * 64 * 64, "accelerator": 64 * 224 * 224}
#: more rows than this gain nothing
ROWS_CEILING = 512
#: where the networks come from that may be traced: a graph keeps neither `no_grad` blocks nor draws of random numbers,
#: which another forward pass may hold, and these do not
TRACED = ("mspd.models", "torch.nn", "torch.fx", "torchvision.models", "torchvision.ops", "timm")


class Affine(nn.Module):
    """An evaluation-mode BatchNorm as what it is: a scale and a shift of each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight.detach(), shift * norm.weight.detach() + norm.bias.detach()
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def layout_on(device: torch.device) -> torch.memory_format:
    """channels-last, the faster one, but on MPS, where releases of PyTorch get gradients wrong in it (its issues
    107214, 175189 and 175190)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


class Prepared(nn.Module):
    """A frozen, faster copy of a model for input gradients; same call, float32 logits."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        device = next((tensor.device for tensor in net.parameters()), torch.device("cpu"))
        self.layout = layout_on(device)
        self.net = net.to(dtype).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        try:
            logits = self._logits(x)
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            self.layout = torch.contiguous_format  # foreign code that flattens by a view takes no other
            self.net.to(memory_format=self.layout)
            logits = self._logits(x)
        check_output(logits)
        return torch.as_tensor(logits).float()

    def _logits(self, x: Tensor) -> object:
        with no_autocast():
            return self.net(x.to(self.dtype).contiguous(memory_format=self.layout))


@torch.inference_mode(False)
def prepare(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of `model` made for input gradients on the device it is on: BatchNorm folded into convolutions where the
    graph can be traced, and channels-last (not on MPS).

    float32 by default, which changes practically no 8-bit value of a defended picture; `dtype=torch.bfloat16` is faster
    where the processor has it, but changes many. The model itself is left alone. In a model that cannot be traced each
    BatchNorm becomes a scale and a shift; one with code from elsewhere than the model zoos of mspd, torch, torchvision
    and timm is copied as it is.
    """
    if isinstance(model, Prepared):
        return model
    check_module(model)
    try:
        with torch.no_grad():  # what a scripted module copies would have a graph
            net = copy.deepcopy(model).eval()
        for parameter in net.parameters():  # nor can it freeze all at once
            parameter.requires_grad_(False)
    except Exception as error:  # a module of foreign code can refuse in any way
        raise InputError(
            f"the model cannot be copied ({first_line(error)}): pass one that copy.deepcopy takes"
        ) from error
    if all(map(_traceable, net.modules())):
        net = _fold(net)
        for name, module in list(net.named_modules()):
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                _replace(net, name, Affine(module))
    return Prepared(net, dtype).eval()


def _traceable(module: nn.Module) -> bool:
    """Whether a graph does all that the module does: its class is known, and it has no forward pass or hooks of its
    own."""
    known = f"{type(module).__module__}.".startswith(tuple(f"{name}." for name in TRACED))
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return known and "forward" not in vars(module) and not any(hooks)


class _Leaves(Tracer):
    """Looks into modules that have parts, and takes the others as they are: what they do may depend on the shape."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


def _fold(net: nn.Module) -> nn.Module:
    """Merge each BatchNorm into the convolution whose output only it reads; `net` itself when it cannot be traced."""
    try:
        graph = GraphModule(net, _Leaves().trace(net))
    except Exception:  # tracing fails in many ways on foreign code; the unfolded copy is just slower
        return net
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source, norm = node.args[0], modules[node.target]
        if source.op != "call_module" or len(source.users) > 1 or not norm.track_running_stats:
            continue
        convolution = modules[source.target]
        plain = type(convolution) is nn.Conv2d or getattr(convolution, "foldable", False)
        if not plain or _calls(graph, source.target) > 1 or _reads(graph, source.target):
            continue
        _replace(graph, source.target, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _calls(graph: GraphModule, target: str) -> int:
    return sum(node.op == "call_module" and node.target == target for node in graph.graph.nodes)


def _reads(graph: GraphModule, target: str) -> bool:
    """Whether something looks at the module's weights but for calling it."""
    return any(node.op == "get_attr" and str(node.target).startswith(f"{target}.") for node in graph.graph.nodes)


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


def compute_rows(n_samples: int, height: int, width: int, device: torch.device) -> int:
    """Rows of every network call: the copies of one image, or of several where one has few, with at most one row more;
    where even one has too many, the size of the pieces.

    On a CPU those of several images are a multiple of 8: in the rows beyond one the last bits are others, so that an
    image's result would depend on its place among them.
    """
    pixels = CHUNK_PIXELS["cpu" if device.type == "cpu" else "accelerator"]
    most = max(4, min(ROWS_CEILING, pixels // (height * width)))
    if n_samples > most:
        return most
    if device.type != "cpu":
        return n_samples * (most // n_samples)
    return next((rows for rows in (8, 16, 24) if n_samples <= rows <= most and rows % n_samples <= 1), n_samples)


def in_pieces(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """function(*tensors), of equal lengths, computed in pieces of exactly `rows` rows (the last one filled up), so that
    the result of a row does not depend on how many there are."""
    results = []
    for start in range(0, len(tensors[0]), rows):
        pieces = [tensor[start : start + rows] for tensor in tensors]
        count = len(pieces[0])
        if count < rows:
            fill = torch.arange(rows, device=pieces[0].device) % count
            pieces = [piece[fill] for piece in pieces]
        results.append(function(*pieces)[:count])
    return torch.cat(results)


def input_gradient(model: nn.Module, z: Tensor, y: Tensor, *, check: bool = True) -> Tensor:
    """Gradient of each image's own cross-entropy with respect to the image; z (B, C, H, W), y hard or soft labels.
    `check` looks at the values, which a graph that is being traced does not have yet."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        logits = answer(model, z)
        if check:
            check_logits(logits, y)
        return gradient_of(cross_entropy(logits.float(), y).sum(), z, check=check)


def input_gradients(model: nn.Module, x: Tensor, y: Tensor, rows: int) -> Tensor:
    """`input_gradient` in calls of `rows` images each."""
    return in_pieces(lambda z, labels: input_gradient(model, z, labels), rows, x, y)


def smoothed_epoch(
    model: nn.Module,
    centre: Tensor,
    y: Tensor,
    *,
    direction: int,
    eps: float,
    norm: str,
    n_samples: int,
    steps: int,
    step_size: float,
    average: str,
    noise: bool,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """`walk` from each image of `centre`, its n_samples offsets drawn from its own generator, its gradients computed in
    pieces of a fixed shape. Without `noise` there is one copy, the centre itself (rows 'N/A' of Tables XIII and XIV).
    """
    n = n_samples if noise else 1
    rows = compute_rows(n, centre.shape[2], centre.shape[3], centre.device)
    group = max(1, rows // n)
    reached = torch.empty_like(centre)
    for start in range(0, len(centre), group):
        piece = slice(start, start + group)
        c = centre[piece]
        if noise:
            offsets = random_offsets((n, *c.shape[1:]), eps, norm, generators[piece]).to(c)
        else:
            offsets = torch.zeros_like(c)[:, None]
        labels = y[piece].repeat_interleave(n, 0)

        def gradients(z: Tensor, labels: Tensor = labels) -> Tensor:
            return input_gradients(model, z, labels, rows)

        reached[piece] = walk(
            gradients, c, offsets, direction=direction, eps=eps, norm=norm, steps=steps, step_size=step_size,
            average=average,
        )  # fmt: skip
    return reached


def walk(
    gradients: Callable[[Tensor], Tensor],
    centre: Tensor,
    offsets: Tensor,
    *,
    direction: int,
    eps: float,
    norm: str,
    steps: int,
    step_size: float,
    average: str,
) -> Tensor:
    """The point that the noisy copies at centre + offsets reach: direction -1 descends the loss, +1 ascends it.

    centre (B, C, H, W), offsets (B, n, C, H, W); gradients maps copies (B * n, C, H, W) to their losses' gradients.
    average "points": the n starts take `steps` projected steps each, their end points are averaged (the published
    results). "gradients": one walk along the mean gradient of the copies (Eq. 5).
    """
    shape, n = offsets.shape, offsets.shape[1]
    offsets = offsets.flatten(0, 1)
    if average == "points":
        centres = centre.repeat_interleave(n, 0)
        z = (centres + offsets).clamp(0, 1)
        for _ in range(steps):
            z = project(z + direction * step(gradients(z), step_size, norm), centres, eps, norm)
        return z.reshape(shape).mean(1)
    z = centre
    for _ in range(steps):
        around = (z.repeat_interleave(n, 0) + offsets).clamp(0, 1)
        mean = gradients(around).reshape(shape).mean(1)
        z = project(z + direction * step(mean, step_size, norm), centre, eps, norm)
    return z
