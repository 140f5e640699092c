"""The whole defence as one ONNX file, for places without Python: the browser (`web/`), a phone, another language.

The graph is traced from the package's own code: `Protector.classify`, `labels` and `chosen`, the `walk` of each epoch,
the outer steps of MCGS. Only the noise is left out: it is an input, because a graph has no generator that every runtime
shares.
Loss gradients are traced through autograd; what ONNX has no word for (the backward pass of a convolution, antialiased
resizing) is written as convolutions and matrix products. Before anything is written, ONNX Runtime must give the
pictures that PyTorch gives.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from mspd import images
from mspd.ball import image_generators
from mspd.defenses.mcgs import cascade_epochs
from mspd.errors import MspdError, UsageError, first_line
from mspd.extras import library
from mspd.models.files import write_atomically
from mspd.models.view import LONGEST
from mspd.protector import Protector, likeliest
from mspd.smoothing import input_gradient, walk

#: an export that gives another 8-bit value in a larger share of the checked pixels is an error
MOST_DIFFERING = 0.002
#: sides of the checked pictures, in multiples of the preset's size: (height, width)
CHECKED = ((1.0, 1.0), (1.0, 1.5), (1.37, 1.0), (LONGEST, 1.0))


@dataclass(frozen=True)
class Exported:
    """What was written, and how it differs from PyTorch: `pixels` were checked in `pictures` pictures, in the share
    `differing` of them an 8-bit value is another one. `seconds` and `seconds_torch`: one picture of the view's smallest
    size in ONNX Runtime and in eager PyTorch."""

    model: str
    bytes: int
    pictures: int
    pixels: int
    differing: float
    seconds: float
    seconds_torch: float


def export_onnx(protector: Protector, folder: str | Path) -> Exported:
    """Write the protector's whole defence to `folder`: `defense.onnx` and its description `defense.json`.

    Inputs: `image` (1, 3, H, W), float32 in [0, 1], of the view's size (`mspd.models.view`); `noise`
    (2, n_samples, 3, H, W), uniform in [0, 1), for the two epochs; `eps`, the budget, a scalar. Outputs: `protected`
    like `image`, not yet on the 8-bit grid; `label` (1,), the class aimed at; `probabilities` (1, classes) of the
    classifier.

    MspdError, and no file, when the backbone has what ONNX or its tracing cannot express, and when ONNX Runtime's
    result differs from PyTorch's in more than `MOST_DIFFERING` of the pixels; UsageError when the extra
    'onnx' is missing or a file is there already.
    """
    folder = Path(folder)
    model, card = folder / "defense.onnx", folder / "defense.json"
    for path in (model, card):
        if path.exists():
            raise UsageError(f"{path}: already exists; choose another folder or remove it first")
    library("onnxscript", "'mspd[onnx]'")  # torch.onnx needs it
    onnxruntime = library("onnxruntime", "'mspd[onnx]'")
    if protector.device.type != "cpu":
        raise UsageError(f"the defence is traced on the CPU, not on {protector.device}: use device='cpu'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch.onnx
        try:
            data = to_onnx(protector)
        except MspdError:
            raise
        except Exception as error:  # tracing another network can fail in any way
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise MspdError(f"this backbone cannot be written as ONNX ({reason}); choose another backbone") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    result = _check(protector, session, str(model), len(data))
    if result.differing > MOST_DIFFERING:
        raise MspdError(
            f"ONNX Runtime {onnxruntime.__version__} gives other 8-bit values than PyTorch {torch.__version__} in "
            f"{result.differing:.2%} of the pixels, at most {MOST_DIFFERING:.1%} may differ: nothing is written; try "
            "other versions of them"
        )
    s = protector.settings
    described = {
        "preset": s.name, "size": s.size, "longest": LONGEST, "eps": s.eps, "n_samples": s.n_samples,
        "own_below": s.own_below, "classes": protector.classes, "weights": protector.checksums,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "checked": {"pictures": result.pictures, "pixels": result.pixels, "differing": result.differing},
    }  # fmt: skip
    write_atomically(model, data)
    write_atomically(card, (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())
    return result


def to_onnx(protector: Protector) -> bytes:
    """The graph of `export_onnx`, unchecked."""
    s = protector.settings
    smallest, largest = s.size, round(s.size * LONGEST)
    height, width = smallest + 8, smallest + 16  # an example with sides that equal no size in the models
    example = (
        torch.full((1, 3, height, width), 0.5),
        torch.full((2, s.n_samples, 3, height, width), 0.5),
        torch.tensor(s.eps),
    )
    traced = make_fx(
        defence(protector), decomposition_table=DECOMPOSITIONS, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(*example)
    high, wide = (torch.export.Dim(name, min=smallest, max=largest) for name in ("height", "width"))
    program = torch.export.export(
        traced, example, dynamic_shapes=({2: high, 3: wide}, {3: high, 4: wide}, None),
        prefer_deferred_runtime_asserts_over_guards=True,
    )  # fmt: skip
    exported = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["image", "noise", "eps"],
        output_names=["protected", "label", "probabilities"],
    )  # fmt: skip
    assert exported is not None
    data: bytes = exported.model_proto.SerializeToString()
    return data


def defence(protector: Protector) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """(image, noise, eps) -> (protected, label, probabilities): the protector's defence of tensors alone."""
    n = protector.settings.n_samples

    def protect(image: Tensor, noise: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            probabilities = protector.classify(image)
            y = protector.labels(probabilities)
            if protector.settings.own_below:
                y = protector.chosen(probabilities, y, protector.own(image))
            label = likeliest(y)
            if y.ndim == 1:  # as probabilities: the backward pass then has no scatter
                y = (torch.arange(probabilities.shape[1]) == y[:, None]).float()
        budget = cast(float, eps)  # a scalar tensor does all that they do with a number
        draws = iter(noise)

        def gradients(z: Tensor) -> Tensor:
            return input_gradient(protector.calibrated, z, y.repeat_interleave(n, 0), check=False)

        def reach(centre: Tensor, direction: int) -> Tensor:
            offsets = next(draws)[None] * (2 * eps) - eps
            return walk(
                gradients, centre, offsets, direction=direction, eps=budget, norm="Linf", steps=1, step_size=budget,
                average="points",
            )  # fmt: skip

        return cascade_epochs(reach, image, eps=budget, norm="Linf", alpha=1.0, epochs="FB"), label, probabilities

    return protect


# ---------------------------------------------------------------- what ONNX has no word for


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: object, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: object, groups: int, wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:  # fmt: skip
    """The input's gradient alone (the weights are frozen): a transposed convolution, written as a plain one with the
    kernel turned around where nothing is strided or grouped."""
    if transposed or list(wanted) != [True, False, False]:
        raise MspdError("only the input gradient of plain convolutions can be exported: choose another backbone")
    if groups == 1 and set(stride) == {1}:
        edge = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        return F.conv2d(gradient, weight.flip(2, 3).transpose(0, 1), None, 1, edge, dilation), None, None
    # rows that a stride leaves over are filled up as far as they can be needed, then cut: by their numbers, because
    # torch.export cannot prove for every stride that a slice is within them
    rest = [n - 1 for n in stride]
    spread = F.conv_transpose2d(gradient, weight, None, stride, padding, rest, groups, dilation)
    kept = spread.index_select(2, torch.arange(x.shape[2])).index_select(3, torch.arange(x.shape[3]))
    return kept, None, None


def _resize(
    x: Tensor, size: Sequence[int], align_corners: bool, height_scale: object = None, width_scale: object = None
) -> Tensor:
    """Antialiased bilinear resize as two matrix products."""
    return _shares(size[0], x.shape[2]) @ x @ _shares(size[1], x.shape[3]).T


def _shares(length: int, source: int) -> Tensor:
    """(length, source): how much of each sample goes into each output; a triangle as wide as the larger pixel."""
    scale = source / length
    centres = (torch.arange(length) + 0.5) * scale
    away = ((torch.arange(source) + 0.5)[None] - centres[:, None]).abs()
    reach = torch.sym_max(scale, 1.0)  # type: ignore[no-untyped-call]
    shares: Tensor = (1 - away / reach).clamp_min(0)
    return shares / shares.sum(1, keepdim=True)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: _convolution_backward,
    torch.ops.aten._upsample_bilinear2d_aa.default: _resize,
}

# ---------------------------------------------------------------- the check


def _check(protector: Protector, session: Any, model: str, size: int) -> Exported:
    """The session against the protector, on smooth random pictures of several shapes, at equal noise."""
    s = protector.settings
    generator = torch.Generator().manual_seed(0)
    pixels = differing = 0
    seconds, seconds_torch = [], []
    for high, wide in CHECKED:
        shape = (round(s.size * high), round(s.size * wide))
        blocks = torch.rand(1, 3, 8, 8, generator=generator)
        x = (F.interpolate(blocks, shape, mode="bicubic").clamp(0, 1) * 255).round() / 255
        inputs = {"image": x.numpy(), "noise": _noise(x, s.n_samples, 0).numpy(), "eps": np.array(s.eps, np.float32)}
        started = time.perf_counter()
        theirs, *_ = session.run(None, inputs)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        ours = protector.defend(x, protector.aims(x)[0], 0)
        seconds_torch.append(time.perf_counter() - started)
        a, b = (images.quantise(z, x, s.eps) for z in (ours, torch.from_numpy(theirs)))
        differing += int((a != b).any(1).sum())
        pixels += a[:, 0].numel()
    return Exported(model, size, len(CHECKED), pixels, differing / pixels, seconds[0], seconds_torch[0])


def _noise(x: Tensor, n_samples: int, seed: int) -> Tensor:
    """What `mspd.defenses.mcgs` draws for the one image x in its two epochs, before it is scaled to the budget."""
    (drawn,) = image_generators(x, torch.Generator().manual_seed(seed))
    return torch.stack([torch.rand(n_samples, *x.shape[1:], generator=drawn) for _ in range(2)])
