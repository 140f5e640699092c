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
    """Best wrong logit minus the label's logit; positive exactly when the prediction is wrong. Hard labels."""
    own = logits.gather(1, y[:, None])[:, 0]
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return other - own
