"""Per-image losses of logits. Each takes logits (B, K) and labels, and returns (B,); higher = less like the label.

Labels are class indices (B,) or, where stated, soft labels (B, K): rows of probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with hard (B,) or soft (B, K) labels (Eq. 1 and 2)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the label's logit: positive where the prediction is wrong, negative where it is right, 0
    where two logits are equal. Hard labels."""
    own = logits.gather(1, y[:, None])[:, 0]
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return other - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, "Reliable evaluation"), untargeted: the margin over the distance
    of the largest to the third largest logit. At least three classes, hard labels."""
    ranked = logits.topk(3, 1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR: the lead of class `target` (B,) over the label, over the distance of the largest logit to the mean
    of the third and fourth. At least four classes, hard labels."""
    ranked = logits.topk(4, 1).values
    lead = logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    return lead / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)
