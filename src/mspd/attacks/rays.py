"""RayS, the hard-label attack of Chen and Gu 2020: searches the sign vector along which the boundary is nearest."""

import math

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_filled, check_inputs, logits_of, wrong
from mspd.ball import length_of, project
from mspd.guard import check_logits, eval_mode

#: width of the interval at which a search of the boundary stops, in L2 units
TOLERANCE = 1e-3


def rays(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    n_queries: int = 10_000,
    stop_early: bool = True,
    queries: Tensor | None = None,
    distances: Tensor | None = None,
) -> Tensor:
    """Shorten the way to the boundary along sign vectors, by predicted labels alone; return x_adv.

    x (B, C, H, W) in [0, 1]; y (B,) true labels. A sign vector's blocks, halved level by level, are flipped in turn; a
    flip that reaches the boundary sooner is kept. An image whose misread point is within eps gets that point, all
    others come back unchanged; with `stop_early` it also stops querying. `queries` (B,) int64 is filled with the number
    of calls that each image took, never more than `n_queries`; `distances` (B,) with the length of the shortest misread
    move found, in `norm`, infinite where there is none. Deterministic: nothing is drawn from `generator`.
    Errors as in `pgd`.
    """
    check_inputs(x, y, eps, norm, generator, n_queries=n_queries)
    check_filled(x, queries=queries, distances=distances)
    size = x[0].numel()
    flat, device = x.flatten(1), x.device
    signs = torch.ones_like(flat)
    # L2 length along the unit sign vector, before clipping
    reach = torch.full((len(x),), torch.inf, device=device, dtype=torch.float32)
    nearest = flat.clone()
    length = torch.full((len(x),), torch.inf, device=device, dtype=torch.float32)
    counted = torch.ones(len(x), dtype=torch.int64, device=device)

    def misread(rows: Tensor, directions: Tensor, along: Tensor) -> Tensor:
        """Whether the images `rows` are misread `along` (L2) their directions; one query each."""
        counted[rows] += 1
        z = (flat[rows] + along[:, None] / math.sqrt(size) * directions).clamp(0, 1)
        return wrong(logits_of(model, z.view(-1, *x.shape[1:])), y[rows])

    with eval_mode(model):
        logits = logits_of(model, x)
        check_logits(logits, y)
        already = wrong(logits, y)
        length[already] = reach[already] = 0
        level, block = 0, 0
        while True:
            open_ = (counted < n_queries) & ~already
            if stop_early:
                open_ &= length > eps
            rows = open_.nonzero()[:, 0]
            if len(rows) == 0:
                break
            width = math.ceil(size / 2**level)
            candidate = signs[rows].clone()
            candidate[:, block * width : (block + 1) * width] *= -1
            limit = reach[rows].clamp_max(math.sqrt(size))  # at that length every pixel is at the edge of [0, 1]
            hit = misread(rows, candidate, limit)
            rows, candidate, high = rows[hit], candidate[hit], limit[hit]
            low = torch.zeros_like(high)
            while True:
                go = ((high - low) > TOLERANCE) & (counted[rows] < n_queries)
                if not bool(go.any()):
                    break
                middle = (low[go] + high[go]) / 2
                inside = misread(rows[go], candidate[go], middle)
                high[go] = torch.where(inside, middle, high[go])
                low[go] = torch.where(inside, low[go], middle)
            shorter = high < reach[rows]
            rows, candidate, high = rows[shorter], candidate[shorter], high[shorter]
            signs[rows], reach[rows] = candidate, high
            point = (flat[rows] + high[:, None] / math.sqrt(size) * candidate).clamp(0, 1)
            moved = length_of(point - flat[rows], norm)
            nearer = moved < length[rows]  # cut to [0, 1], a move along the vector of the shorter reach can be longer
            nearest[rows[nearer]], length[rows[nearer]] = point[nearer], moved[nearer]
            block += 1
            if block * width >= size:
                level, block = (level + 1, 0) if width > 1 else (0, 0)
    if queries is not None:
        queries.copy_(counted)
    if distances is not None:
        distances.copy_(length)
    close = (length <= eps)[:, None, None, None]
    return torch.where(close, project(nearest.view_as(x), x, eps, norm), x)
