"""FAB-T, the targeted "fast adaptive boundary" attack (Croce and Hein 2020, "Minimally distorted adversarial
examples"): walks along the linearised boundary and pulls back towards the original image."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_call, loss_gradient, over_targets, predict, wrong
from mspd.guard import eval_mode

LARGEST_PULL, OVERSHOOT, PULL_BACK = 0.1, 1.05, 0.9
BISECTIONS = 40


def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 100,
    targets: int = 9,
) -> Tensor:
    """Look for the nearest misread point, towards each of the `targets` likeliest wrong classes in turn; return x_adv.

    x (B, C, H, W) in [0, 1]; y (B,) true labels. An image whose misread point is within eps of x gets it and leaves;
    all others come back unchanged. Starts at x itself: nothing is drawn from `generator`. Errors as in `pgd`.
    """
    check_call(model, x, y, eps, norm)

    def run(x: Tensor, y: Tensor, aim: Tensor, _: int) -> Tensor:
        return _walk(model, x, y, aim, eps=eps, norm=norm, steps=steps)

    with eval_mode(model):
        return over_targets(model, x, y, targets, run)


def _walk(model: nn.Module, x: Tensor, y: Tensor, aim: Tensor, *, eps: float, norm: str, steps: int) -> Tensor:
    found = x.clone()
    live = torch.arange(len(x), device=x.device)
    z = x.clone()
    for _ in range(steps):
        centre, labels, goal = x[live], y[live], aim[live]

        def lead(logits: Tensor, labels: Tensor, goal: Tensor = goal) -> Tensor:
            return logits.gather(1, goal[:, None])[:, 0] - logits.gather(1, labels[:, None])[:, 0]

        w, value, _ = loss_gradient(model, z, labels, lead)
        b = (w * z).flatten(1).sum(1) - value  # the plane w . z' = b, where the linearised lead is zero
        here = to_plane(z, w, b, norm)
        there = to_plane(centre, w, b, norm)
        near, far = _size(here, norm), _size(there, norm)
        pull = (near / (near + far).clamp_min(1e-12)).clamp_max(LARGEST_PULL)[:, None, None, None]
        z = ((1 - pull) * (z + OVERSHOOT * here) + pull * (centre + OVERSHOOT * there)).clamp(0, 1)
        misread = wrong(predict(model, z), labels)
        done = misread & (_size(z - centre, norm) <= eps)
        found[live[done]] = z[done]
        back = centre + PULL_BACK * (z - centre)
        z = torch.where(misread[:, None, None, None], back, z)[~done]
        live = live[~done]
        if len(live) == 0:
            break
    return found


def to_plane(z: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """The shortest d (B, C, H, W) with w . (z + d) = b and z + d in [0, 1], in Linf or L2; the corner of [0, 1] that
    comes nearest to the plane where none reaches it. Found by bisection of the one number that it hangs on."""
    gap = b - (w * z).flatten(1).sum(1)
    direction = torch.where((gap >= 0)[:, None, None, None], 1.0, -1.0) * (w.sign() if norm == "Linf" else w)
    steepest = w.flatten(1).abs().amax(1).clamp_min(1e-12)
    smallest = torch.where(w == 0, torch.inf, w.abs()).flatten(1).amin(1).clamp(1e-12, 1e12)
    high = torch.ones_like(gap) if norm == "Linf" else 1 / smallest
    low = torch.zeros_like(gap)
    if norm == "L2":  # a tighter start: no less than the plain projection needs, doubled until it is enough
        high = torch.minimum(high, 1 / steepest)
        for _ in range(60):
            short = _moved(z, direction, high, w) < gap.abs()
            if not bool(short.any()) or bool((high[short] >= 1 / smallest[short]).all()):
                break
            low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        short = _moved(z, direction, middle, w) < gap.abs()
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (z + high[:, None, None, None] * direction).clamp(0, 1) - z


def _moved(z: Tensor, direction: Tensor, length: Tensor, w: Tensor) -> Tensor:
    """How far w . z moves (absolute, (B,)) when z goes `length` along `direction`, cut to [0, 1]."""
    d = (z + length[:, None, None, None] * direction).clamp(0, 1) - z
    return (w * d).flatten(1).sum(1).abs()


def _size(d: Tensor, norm: str) -> Tensor:
    flat = d.flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(dim=1)
