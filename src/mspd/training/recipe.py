"""A recipe is everything a training needs but the pictures; one file a shipped model in `recipes/`."""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

from mspd.errors import UsageError

#: what the fields that name something may name
CHOICES = {
    "task": ("classify", "denoise", "robustify", "flow"),
    "method": ("n-fgsm", "pgd", "trades"),
    "optimiser": ("sgd", "adamw"),
}


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    `architecture` and `arguments` name the network (see `mspd.models.ARCHITECTURES`); `size` is the side of its
    pictures in pixels. `task` is what it learns: to "classify"; to "denoise" the first `timesteps` steps of a diffusion
    (DiffPure); to "robustify" pictures for the shipped model `against` (A5); to be the "flow" of perturbations that
    mislead the model `against` (MCG). `eps` is the budget of the training, in Linf; for classifiers 0 means standard
    training, more means adversarial training by `method`: "n-fgsm", or "pgd" or "trades" with `steps` steps. `test_eps`
    is the budget of the PGD-20 accuracy on the card. Classifiers learn by `optimiser` "sgd" or "adamw".
    An epoch goes through all pictures, or through `pictures` of them, drawn anew each time. The first `small_epochs`
    epochs run at `small_size` pixels (cheaper, about the same result). What is kept is a moving average of the weights,
    each step's share of which falls by the factor `average` at each later step; in a training of few steps faster.
    `start` names a model whose weights come first, or a loader of them, `package.module:function`, called with the
    model; layers whose name contains one of the words in `frozen` then keep those weights (a frozen BatchNorm keeps
    its statistics, too).
    """

    name: str
    dataset: str
    architecture: str
    size: int
    epochs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    eps: float = 0.0
    method: str = "n-fgsm"
    steps: int = 2
    test_eps: float = 8 / 255
    optimiser: str = "sgd"
    task: str = "classify"
    timesteps: int = 0
    against: str = ""
    pictures: int = 0
    batch_size: int = 128
    lr: float = 0.2
    warmup: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    crop: int = 4
    cutout: int = 0
    small_epochs: int = 0
    small_size: int = 0
    average: float = 0.998
    start: str | None = None
    frozen: str = ""

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            value = getattr(self, key)
            if value not in known:
                raise UsageError(f"unknown {key} {value!r}: choose one of {', '.join(known)}")


def list_recipes() -> list[str]:
    """Names of all recipes."""
    package = importlib.import_module("mspd.training.recipes")
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__))


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; UsageError lists the known ones."""
    if name not in list_recipes():
        raise UsageError(f"unknown recipe {name!r}: choose one of {', '.join(list_recipes())}")
    recipe: Recipe = importlib.import_module(f"mspd.training.recipes.{name.replace('-', '_')}").RECIPE
    return recipe
