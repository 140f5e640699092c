"""FAB-T, the targeted "fast adaptive boundary" attack (Croce and Hein 2020, "Minimally distorted adversarial
examples"): walks along the linearised boundary and pulls back towards the original image."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_call, logits_of, loss_gradient, over_targets, wrong
from mspd.ball import length_of
from mspd.guard import eval_mode

LARGEST_PULL, OVERSHOOT, PULL_BACK = 0.1, 1.05, 0.9
#: the search for a plane's nearest point: steps at most (a handful is enough), the share of the way that may be left,
#: and the farthest that pixels of no weight are sent
NEWTON_STEPS, TOLERANCE, LARGEST_LENGTH = 50, 1e-5, 1e12


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
    check_call(model, x, y, eps, norm, generator, steps=steps, targets=targets)

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
        near, far = length_of(here, norm), length_of(there, norm)
        pull = (near / (near + far).clamp_min(1e-12)).clamp_max(LARGEST_PULL)[:, None, None, None]
        z = ((1 - pull) * (z + OVERSHOOT * here) + pull * (centre + OVERSHOOT * there)).clamp(0, 1)
        misread = wrong(logits_of(model, z), labels)
        done = misread & (length_of(z - centre, norm) <= eps)
        found[live[done]] = z[done]
        back = centre + PULL_BACK * (z - centre)
        z = torch.where(misread[:, None, None, None], back, z)[~done]
        live = live[~done]
        if len(live) == 0:
            break
    return found


def to_plane(z: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """The shortest d (B, C, H, W) with w . (z + d) = b and z + d in [0, 1], in Linf or L2, to within TOLERANCE of the
    way; the corner of [0, 1] that comes nearest to the plane where none reaches it.

    It hangs on one number, how long z goes along the sign of w (Linf) or along w (L2), cut to [0, 1]. What w . z gains
    by that is concave and made of straight pieces, so that Newton's steps from 0 end at the length itself."""
    gap = b - (w * z).flatten(1).sum(1)
    direction = torch.where((gap >= 0)[:, None, None, None], 1.0, -1.0).to(w) * (w.sign() if norm == "Linf" else w)
    room = torch.where(direction > 0, 1 - z, z).flatten(1)
    pace, weight = direction.abs().flatten(1), w.abs().flatten(1)
    length = torch.zeros_like(gap)
    for _ in range(NEWTON_STEPS):
        gone = length[:, None] * pace
        left = gap.abs() - (weight * torch.minimum(gone, room)).sum(1)
        slope = (weight * pace * (gone < room)).sum(1)
        further = (left > TOLERANCE * gap.abs()) & (slope > 0)
        if not bool(further.any()):
            break
        length = torch.where(further, length + left / slope, length).clamp_max(LARGEST_LENGTH)
    return (z + length[:, None, None, None] * direction).clamp(0, 1) - z
