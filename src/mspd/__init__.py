"""mspd: protect a picture before it is published, so that robust classifiers keep reading it correctly when somebody
attacks it (Wang et al., "Minimal cascade gradient smoothing for fast transferable preemptive adversarial defense").

    import mspd

    mspd.protect("photo.jpg")                                  # writes photo.protected.png
    x_def = mspd.Protector("cifar10")(x, seed=0)               # tensor in, tensor out
    x_def = mspd.defenses.mcgs(backbone, x, y, eps=8/255, generator=g)
    report = mspd.evaluate(target, x_def, y, attack="pgd", eps=8/255, seed=0)
"""

from mspd import adapters, attacks, defenses, purifiers
from mspd.benchmark import benchmark
from mspd.errors import ImageError, InputError, MspdError, UsageError, WeightsError
from mspd.evaluation import Report, evaluate
from mspd.models import list_models, load_model
from mspd.presets import PRESETS, Preset
from mspd.protector import Protection, Protector, protect
from mspd.reversion import revert
from mspd.smoothing import prepare
from mspd.verify import Verification, Verifier, verify

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "ImageError",
    "InputError",
    "MspdError",
    "Preset",
    "Protection",
    "Protector",
    "Report",
    "UsageError",
    "Verification",
    "Verifier",
    "WeightsError",
    "adapters",
    "attacks",
    "benchmark",
    "defenses",
    "evaluate",
    "list_models",
    "load_model",
    "prepare",
    "protect",
    "purifiers",
    "revert",
    "verify",
]
