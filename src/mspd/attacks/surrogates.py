"""The model of an attacker who has not the target's: its gradients stand for the target's."""

from torch import Tensor, nn

from mspd.attacks.common import logits_of
from mspd.errors import InputError
from mspd.guard import check_logits, eval_mode
from mspd.models import load_model


def surrogate_for(surrogate: nn.Module | str, x: Tensor, y: Tensor, classes: int) -> nn.Module:
    """`surrogate`, loaded onto the device of x where it is a name; InputError where it does not fit images x
    (B, C, H, W), labels y (B,) and the number of the target's `classes`."""
    own = load_model(surrogate, x.device) if isinstance(surrogate, str) else surrogate
    name = surrogate if isinstance(surrogate, str) else "the surrogate"
    remedy = "pass surrogate=, a model with the target's classes"
    with eval_mode(own):
        logits = logits_of(own, x[:1])
    try:
        check_logits(logits.expand(len(y), -1), y, name)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from error
    if logits.shape[1] != classes:
        raise InputError(f"{name} has {logits.shape[1]} classes, the target has {classes}; {remedy}")
    return own
