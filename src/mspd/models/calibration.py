"""Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks"): one number by which a network's
logits are divided, so that it is as sure of what it reads as it is right.

Adversarially trained networks are less sure than right: their best temperature is below 1. As backbones they move a
picture away from all other classes a little, where calibrated ones move it from the few that it could be taken for.
"""

from typing import Any

from torch import Tensor, nn

from mspd.errors import WeightsError

#: bounds of the temperature
LEAST, MOST = 0.25, 4.0


class Calibrated(nn.Module):
    """`net` with its logits divided by `temperature`."""

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits / self.temperature


def temperature(logits: Tensor, y: Tensor) -> float:
    """The temperature, from `LEAST` to `MOST`, at which logits (N, K) give labels y (N,) the highest likelihood."""
    z = logits.double()
    own = z.gather(1, y[:, None])[:, 0]
    low, high = 1 / MOST, 1 / LEAST  # of the inverse: the likelihood is concave in it
    for _ in range(60):
        inverse = (low + high) / 2
        expected = ((z * inverse).softmax(1) * z).sum(1)
        if bool((expected - own).mean() > 0):
            high = inverse
        else:
            low = inverse
    return 2 / (low + high)


def stated(card: dict[str, Any], model: str) -> float:
    """The temperature on the card of `model`, 1 where it has none; WeightsError for one that cannot be."""
    value = card.get("temperature", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST <= value <= MOST:
        raise WeightsError(f"{model}: its card's temperature is {value!r}, not a number from {LEAST:g} to {MOST:g}")
    return float(value)
