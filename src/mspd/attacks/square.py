"""Square, the score-based attack of Andriushchenko et al. 2020: random squares, kept when the margin shrinks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_filled, check_inputs, logits_of, right, wrong
from mspd.ball import image_generators, project
from mspd.errors import UsageError
from mspd.guard import check_counts, check_logits, check_positive, eval_mode
from mspd.objectives import margin

#: of 10,000 queries, those after which the squares' share of the image is halved
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
#: random numbers drawn from an image's generator at a time
_BLOCK = 4096


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    n_queries: int = 5000,
    p_init: float = 0.8,
    start: Callable[[Tensor, int], Tensor] | None = None,
    skip: int = 0,
    queries: Tensor | None = None,
) -> Tensor:
    """Query the model's logits until each image is misread or has used `n_queries`; return x_adv, the best point found.

    x (B, C, H, W) in [0, 1]; y (B,) true labels; `p_init` the first square's share of the image, halved at fixed
    queries. Linf starts from vertical stripes, or from `start`: it maps the indices of images that are read rightly,
    and the number of the model's classes, to another attack's guesses for them (len(indices), C, H, W); `skip` begins
    that far into the schedule. Every image has its own squares, from its own generator. `queries` (B,) int64 is filled
    with the number of calls of the model that each image took, the look at x itself included. Errors as in `pgd`.
    """
    check_inputs(x, y, eps, norm, generator, n_queries=n_queries)
    check_filled(x, queries=queries)
    check_positive(p_init=p_init)
    check_counts(0, skip=skip)
    if norm == "L2" and min(x.shape[2:]) < 5:
        raise UsageError("square in L2 needs pictures of at least 5 x 5 pixels: use norm='Linf'")
    counted = torch.ones(len(x), dtype=torch.int64)
    best = x.clone()
    with eval_mode(model):
        draws = _Draws(image_generators(x, generator))
        logits = logits_of(model, x)
        check_logits(logits, y)
        live = right(logits, y)
        if n_queries > 1 and len(live):
            first = start(live, logits.shape[1]) if start is not None else _first(x[live], draws, live, eps, norm)
            best[live] = project(first, x[live], eps, norm)
            logits = logits_of(model, best[live])
            counted[live.cpu()] += 1
            kept = ~wrong(logits, y[live])
            live, lead = live[kept], -margin(logits, y[live])[kept]
        for index in range(n_queries - 2):
            if len(live) == 0:
                break
            share = p_init / 2 ** sum(index + skip > halving for halving in HALVINGS)
            old, centre = best[live], x[live]
            moved = (_step_linf if norm == "Linf" else _step_l2)(old, centre, draws, live, eps, share)
            logits = logits_of(model, moved)
            counted[live.cpu()] += 1
            new, misread = -margin(logits, y[live]), wrong(logits, y[live])
            better = (new < lead) | misread
            best[live] = torch.where(better[:, None, None, None], moved, old)
            lead = torch.where(better, new, lead)
            live, lead = live[~misread], lead[~misread]
    if queries is not None:
        queries.copy_(counted)
    return best


class _Draws:
    """Uniform numbers in [0, 1) of each image, from its own generator, drawn in blocks."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self.generators = generators
        self.blocks: dict[int, Tensor] = {}
        self.used = dict.fromkeys(range(len(generators)), 0)

    def take(self, live: Tensor, count: int) -> Tensor:
        """(len(live), count) numbers, the next ones of the images `live`."""
        rows = []
        for image in live.tolist():
            block, used = self.blocks.get(image), self.used[image]
            if block is None or used + count > len(block):
                block = torch.rand(max(_BLOCK, count), generator=self.generators[image], dtype=torch.float32)
                self.blocks[image], used = block, 0
            rows.append(block[used : used + count])
            self.used[image] = used + count
        return torch.stack(rows).to(live.device)


def _first(x: Tensor, draws: _Draws, live: Tensor, eps: float, norm: str) -> Tensor:
    batch, channels, height, width = x.shape
    if norm == "Linf":
        signs = draws.take(live, channels * width).view(batch, channels, 1, width) * 2 - 1
        return x + eps * torch.where(signs >= 0, 1.0, -1.0).to(x)
    side = height // 5
    delta = torch.zeros_like(x)
    for top in range((height % side) // 2, height - side + 1, side):
        for left in range((width % side) // 2, width - side + 1, side):
            numbers = draws.take(live, channels + 1)
            signs = torch.where(numbers[:, :channels] >= 0.5, 1.0, -1.0).to(x)[:, :, None, None]
            delta[:, :, top : top + side, left : left + side] += signs * _bump(side, numbers[:, channels]).to(x)
    return _on_sphere(x, delta, eps)


def _windows(numbers: Tensor, side: int, height: int, width: int) -> Tensor:
    """Boolean masks (B, 1, H, W) of squares of `side` pixels at places given by numbers (B, 2) in [0, 1)."""
    top = (numbers[:, 0] * (height - side)).long()[:, None]
    left = (numbers[:, 1] * (width - side)).long()[:, None]
    rows = torch.arange(height, device=numbers.device)
    columns = torch.arange(width, device=numbers.device)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def _step_linf(best: Tensor, x: Tensor, draws: _Draws, live: Tensor, eps: float, share: float) -> Tensor:
    _, channels, height, width = x.shape
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    numbers = draws.take(live, 2 + channels)
    signs = torch.where(numbers[:, 2:] >= 0.5, 1.0, -1.0).to(x)[:, :, None, None]
    mask = _windows(numbers[:, :2], side, height, width)
    return project(torch.where(mask, best + 2 * eps * signs, best), x, eps, "Linf")


def _step_l2(best: Tensor, x: Tensor, draws: _Draws, live: Tensor, eps: float, share: float) -> Tensor:
    """Move the energy of one window into another, as a bump with a random sign a channel."""
    batch, channels, height, width = x.shape
    side = min(max(round((share * height * width) ** 0.5), 3), height - 1, width - 1)
    side += 1 - side % 2 if side < min(height, width) - 1 else -(1 - side % 2)
    numbers = draws.take(live, 5 + channels)
    delta = best - x
    one = _windows(numbers[:, 0:2], side, height, width).expand_as(x)
    two = _windows(numbers[:, 2:4], side, height, width).expand_as(x)
    total = delta.flatten(1).square().sum(1)
    inside = (delta * (one | two)).flatten(2).square().sum(2)  # (B, C)
    signs = torch.where(numbers[:, 5:] >= 0.5, 1.0, -1.0).to(x)[:, :, None, None]
    old = delta[one].view(batch, channels, side, side)
    new = signs * _bump(side, numbers[:, 4]).to(x) + old / _length(old)
    wanted = ((eps**2 - total).clamp_min(0)[:, None] / channels + inside).sqrt()[:, :, None, None]
    new = new / _length(new) * wanted
    delta = delta.masked_fill(two, 0).masked_scatter(one, new)
    return _on_sphere(x, delta, eps).clamp(0, 1)


def _on_sphere(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """x moved along delta by eps."""
    moved: Tensor = x + eps * delta / delta.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return moved


def _length(window: Tensor) -> Tensor:
    length: Tensor = window.flatten(2).norm(dim=2).clamp_min(1e-12)[:, :, None, None]
    return length


def _bump(side: int, turn: Tensor) -> Tensor:
    """(B, 1, side, side) of unit length: a peak in the upper half, one downwards in the lower; transposed where `turn`
    (B,) is above one half."""
    pattern = torch.cat([_peak(side // 2, side), -_peak(side - side // 2, side)])
    pattern = pattern / pattern.norm()
    return torch.where((turn > 0.5).cpu()[:, None, None, None], pattern.T, pattern)


def _peak(height: int, width: int) -> Tensor:
    """Sum of rectangles around the middle, each one pixel larger on every side and cut off at the border; the k-th adds
    1/k^2. Of unit length."""
    out = torch.zeros(height, width, dtype=torch.float32)
    row, column = height // 2, width // 2
    for k in range(max(row, column) + 1):
        out[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += 1 / (k + 1) ** 2
    length: Tensor = out.norm()
    return out / length
