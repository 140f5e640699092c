"""The presets: which models, which budget, which settings of MCGS."""

from dataclasses import dataclass

from mspd.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """`classifier` gives the label, `backbone` the gradient; `targets` are robust models that neither has seen, on
    which `verify` measures. `size` is the shorter side, in pixels, at which all of them work; `eps` the Linf budget;
    `n_samples` the noisy copies of `protect` (the paper's N is 20); `soft_labels` how many classes the label keeps
    (0: the single best). Where the classifier is less sure of its best class than `own_below`, as of most pictures of
    other classes, `protect` aims at what the backbone itself reads; 0: never."""

    name: str
    classifier: str
    backbone: str
    targets: tuple[str, ...]
    size: int
    eps: float
    n_samples: int
    soft_labels: int
    own_below: float = 0.0


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="cifar10",
            classifier="effnet-lite0-cifar10",
            backbone="prn18-cifar10",
            targets=("wrn16-2-cifar10", "rn18-cifar10"),
            size=32,
            eps=8 / 255,
            n_samples=5,
            soft_labels=0,
        ),
        Preset(
            name="photo",
            classifier="effnet-lite0-photo",
            backbone="prn18-photo",
            targets=("effnet-lite0-robust-photo", "rn18-photo", "convnext-photo"),
            size=64,
            eps=4 / 255,
            n_samples=2,
            soft_labels=0,
            own_below=0.3,
        ),
    )
}


def get_preset(preset: str | Preset) -> Preset:
    """The preset called so, or the one given; UsageError lists the known names."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[preset]
