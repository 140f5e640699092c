"""The published models of the paper, called as RobustBench calls them.

Accuracies in percent, of RobustBench's leaderboard: clean, and under AutoAttack (standard, Linf) with `eps`; a dash
there is None here. Addresses and arguments are those of robustbench 1.1.1, and of chenyaofo/pytorch-cifar-models.
"""

from dataclasses import dataclass, field
from typing import Any

from mspd.models.common import HALF_STATS, IMAGENET_STATS, Stats

#: RobustBench's models of CIFAR-10 divide by these
ROBUSTBENCH_STATS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
#: chenyaofo/pytorch-cifar-models divides by these
CHENYAOFO_STATS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
RELEASES = "https://github.com/RobustBench/robustbench/releases/download/"


@dataclass(frozen=True)
class Published:
    """One published model.

    network, arguments: a function of `networks.py`, or, as "timm", a network of timm by its `name`
    urls:     one address a file; several files are the members of an ensemble
    stats:    means and standard deviations of the images, None if they are not normalised
    size:     of the images, in pixels; `fixed` if the network takes no other
    zoo:      the folder below RobustBench's own `models/`
    sha256:   leading digits, one a file, where the publisher tells them
    renames:  parts of the published names, and what they are called in the network
    """

    network: str
    arguments: dict[str, Any]
    urls: tuple[str, ...]
    clean_acc: float
    autoattack_acc: float | None
    stats: Stats | None = ROBUSTBENCH_STATS
    eps: float = 8 / 255
    size: int = 32
    fixed: bool = False
    zoo: str = "cifar10/Linf"
    sha256: tuple[str, ...] = ()
    renames: dict[str, str] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        return "ImageNet" if self.size == 224 else "CIFAR-10"


def _drive(*files: str) -> tuple[str, ...]:
    return tuple(DRIVE + file for file in files)


def _imagenet(network: str, arguments: dict[str, Any], url: str, clean: float, robust: float | None) -> Published:
    return Published(
        network, arguments, (url,), clean, robust, stats=IMAGENET_STATS, eps=4 / 255, size=224, fixed=True,
        zoo="imagenet/corruptions" if robust is None else "imagenet/Linf",
    )  # fmt: skip


PUBLISHED: dict[str, Published] = {
    # the paper's backbone and classifier on CIFAR-10
    "robustbench:Gowal2021Improving_R18_ddpm_100m": Published(
        "dm_preact_resnet18", {}, _drive("1-0EuCJashqSXEkkd1DOzFA4tH8KL2kim"), 87.35, 58.63
    ),
    "robustbench:Hendrycks2020AugMix_ResNeXt": Published(
        "resnext29", {}, _drive("1uGP3nZbL3LC160kOsxwkkt6tDd4qbZT1"), 95.83, None,
        stats=HALF_STATS, zoo="cifar10/corruptions",
    ),
    # its ten robust targets
    "robustbench:Bartoldson2024Adversarial_WRN-94-16": Published(
        "dm_wide_resnet", {"depth": 94, "width": 16}, _drive("1g6o9H1b6vjoBi1USdCBt64C8B8LPiioX"), 93.68, 73.71
    ),
    "robustbench:Peng2023Robust": Published(
        "ra_wide_resnet", {}, _drive("1-6M8KHZdPmgqYkBSkdZQ2fLwp86ZQ9VU"), 93.27, 71.07
    ),
    "robustbench:Wang2023Better_WRN-70-16": Published(
        "dm_wide_resnet", {"depth": 70, "width": 16}, _drive("1-RF7ZSS-PAh6bfQcuqx4lh9bc9BUGnap"), 93.25, 70.69
    ),
    "robustbench:Rade2021Helper_extra": Published(
        "dm_wide_resnet", {"depth": 34, "width": 10}, _drive("1GhAp-0C3ONRy9BxIe0J9vKc082vHvR7t"), 91.47, 62.83
    ),
    "robustbench:Xu2023Exploring_WRN-28-10": Published(
        "dm_wide_resnet", {"depth": 28, "width": 10}, _drive("1k1uJI13ft0h0dfzuEihVpBvjBXwFRH2o"), 93.69, 63.89
    ),
    "robustbench:Wong2020Fast": Published(
        "preact_resnet18", {}, _drive("1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv"), 83.34, 43.21
    ),
    "robustbench:Sehwag2021Proxy_ResNest152": Published(
        "resnest152", {}, _drive("1XSjtJZAvDlua6wTM6WRLvW_jON-DqLgT"), 87.30, 62.79, stats=None
    ),
    "robustbench:Chen2020Adversarial": Published(
        "preact_bottlenecks", {},
        _drive("1HrG22y_A9F0hKHhh2cLLvKxsQTJTLE_y", "1DB2ymt0rMnsMk5hTuUzoMTpMKEKWpExd",
               "1GfgzNZcC190-IrT7056IZFDB6LfMUL9m"),
        86.04, 51.56, stats=IMAGENET_STATS,
    ),
    "robustbench:Addepalli2022Efficient_RN18": Published(
        "resnet18", {}, _drive("1m5vhdzIUUKhDbsZdOG9z76Eyp6f4xe_f"), 85.71, 52.48, stats=None
    ),
    "robustbench:Debenedetti2022Light_XCiT-L12": Published(
        "xcit_l12", {}, (RELEASES + "v1.1/debenedetti2022light-xcit-l-cifar10-linf.pth.tar",), 91.73, 57.58, fixed=True
    ),
    # its two that are not robust
    "robustbench:Standard": Published(
        "wide_resnet", {"depth": 28, "width": 10}, _drive("1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"), 94.78, 0.0, stats=None
    ),
    "chenyaofo:cifar10_resnet56": Published(
        "resnet56", {},
        ("https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/cifar10_resnet56-187c023a.pt",),
        94.37, None, stats=CHENYAOFO_STATS, sha256=("187c023a",),
        renames={".downsample.": ".shortcut.", "fc.": "linear."},
    ),
    # ImageNet: backbone, target, classifier
    "robustbench:Singh2023Revisiting_ViT-S-ConvStem": _imagenet(
        "vit_s_convstem", {}, DRIVE + "1-1sUYXnj6bDXacIKI3KKqn4rlkmL-ZI2", 72.56, 48.08
    ),
    "robustbench:Liu2023Comprehensive_Swin-L": _imagenet(
        "timm", {"name": "swin_large_patch4_window7_224"}, DRIVE + "1-57sQfcrsDsslfDR18nRD7FnpQmsSBk7", 78.92, 59.56
    ),
    "robustbench:Tian2022Deeper_DeiT-B": _imagenet(
        "timm", {"name": "deit_base_patch16_224"}, RELEASES + "v1.1.1-test/tian2022deeper-deit-b.pth", 80.32, None
    ),
}  # fmt: skip
