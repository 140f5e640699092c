"""The model of an attacker who has not the target's: its gradients stand for the target's."""

from torch import Tensor, nn

from mspd.attacks.common import logits_of
from mspd.errors import InputError
from mspd.guard import check_logits, eval_mode
from mspd.models import load_model


def surrogate_for(surrogate: nn.Module | str, x: Tensor, y: Tensor) -> nn.Module:
    """`surrogate`, loaded onto the device of x where it is a name; InputError where it does not fit images x
    (B, C, H, W) and labels y (B,)."""
    own = load_model(surrogate, x.device) if isinstance(surrogate, str) else surrogate
    with eval_mode(own):
        logits = logits_of(own, x[:1])
    try:
        check_logits(logits.expand(len(y), -1), y, surrogate if isinstance(surrogate, str) else "the surrogate")
    except InputError as error:
        raise InputError(f"{error}; pass surrogate=, a model with the target's classes") from error
    return own
