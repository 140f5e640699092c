"""On which models, pictures and settings a table is measured: the tiers, and the defences and attacks of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mspd.adapters import Function
from mspd.attacks import autoattack, bpda_eot, cw, decowa, mcg, pgd, rays, square
from mspd.benchmark.papers.mspd.coupled import coupled
from mspd.defenses import a5, bilevel, cascade, mcgs, unadv
from mspd.errors import UsageError
from mspd.presets import PRESETS, Preset
from mspd.purifiers import diffpure, jpeg

OURS = "MCGS"


@dataclass(frozen=True)
class Tier:
    """`preset`: classifier, backbone, size and budget. By the paper's names, `targets` of Table VI, `backbones` and
    `nonrobust` of Tables XI and XVII. `target` stands where the paper has WideResNet-94-16, and `light` too where that
    many pictures under AutoAttack would take days; `second` stands for XCiT-L12. `gray` and `black` are the surrogates
    of the reversion, `surrogate` is the model of attackers that transfer. `n` pictures for PGD, `n_wide` for PGD on all
    targets, `n_strong` for AutoAttack and, but for PGD on all targets, for the defences of `epochs` epochs of `inner`
    steps. With `imagenet` the tier is of Table IV and Fig. 6 alone, the paper's two on ImageNet, and names no models
    but theirs.
    """

    name: str
    preset: Preset
    target: str
    n: int
    n_wide: int
    n_strong: int
    second: str = ""
    light: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    nonrobust: Mapping[str, str] = field(default_factory=dict)
    gray: str = ""
    black: str = ""
    surrogate: str = ""
    imagenet: bool = False
    samples: int = 20
    epochs: int = 100
    inner: int = 20
    pgd_steps: int = 20
    aa_steps: int = 100
    aa_queries: int = 5000
    queries: int = 10_000
    eps_l2: float = 0.5
    bpda: Mapping[str, Any] = field(default_factory=lambda: {"steps": 50, "samples": 20, "checks": 150})
    cw: Mapping[str, Any] = field(default_factory=dict)
    decowa: Mapping[str, Any] = field(default_factory=dict)
    strides: int | None = None
    curve: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)

    @property
    def unadv(self) -> str:
        return f"UnAdv-{self.epochs}"

    @property
    def bilevel(self) -> str:
        return f"Bi-Level-{self.epochs}"


def methods(tier: Tier) -> dict[str, str]:
    """The columns of the tables of many defences, and what the cells call these."""
    return {"No Pre.": "none", "UnAdv": tier.unadv, "Bi-Level": tier.bilevel, "Ours": OURS}


def ours(tier: Tier, **changes: Any) -> dict[str, Function]:
    """MCGS by the name that tells its settings from the paper's: one entry {"MCGS alpha 0.5": ...}."""
    said = [f"{key} {value}" for key, value in sorted(changes.items())]
    return {" ".join((OURS, *said)): partial(mcgs, **{"n_samples": tier.samples, **changes})}


def baselines(tier: Tier) -> dict[str, Function]:
    """The published baselines, with the label of their own backbone."""
    of = partial(partial, coupled)
    return {
        tier.unadv: of(defense=unadv, epochs=tier.epochs, alpha=0.1, steps=tier.inner),
        "UnAdv-2": of(defense=unadv, epochs=2, steps=tier.inner),
        tier.bilevel: of(defense=bilevel, epochs=tier.epochs, steps=tier.inner),
        "Bi-Level-2": of(defense=bilevel, epochs=2, steps=tier.inner),
        "UnAdv + Bi-Level-2": of(defense=cascade, steps=tier.inner),
        "A5": a5,
    }


def attacks(tier: Tier, *names: str) -> dict[str, Function]:
    """The attacks called so, with the settings of the tier."""
    standard: dict[str, Any] = {"steps": tier.aa_steps, "n_queries": tier.aa_queries}
    made: dict[str, Callable[[], Function]] = {
        "PGD": lambda: partial(pgd, steps=tier.pgd_steps),
        "PGD 16/255": lambda: partial(pgd, steps=tier.pgd_steps, eps=16 / 255),
        "PGD 4/255": lambda: partial(pgd, steps=tier.pgd_steps, eps=4 / 255),
        "CW": lambda: partial(cw, **tier.cw),
        "AutoAttack": lambda: partial(autoattack, **standard),
        "AutoAttack L2": lambda: partial(autoattack, **standard, eps=tier.eps_l2, norm="L2"),
        "AutoAttack rand": lambda: partial(autoattack, version="rand", steps=tier.aa_steps),
        "RayS": lambda: partial(rays, n_queries=tier.queries),
        "Square": lambda: partial(square, n_queries=tier.queries),
        "MCG": lambda: partial(mcg, n_queries=tier.queries, surrogate=tier.surrogate),
        "DeCoWA": lambda: partial(decowa, surrogate=tier.surrogate, **tier.decowa),
        "BPDA+EOT": lambda: partial(bpda_eot, **tier.bpda),
        "BPDA+EOT on DiffPure": lambda: partial(bpda_eot, **tier.bpda, purifier=purifier(tier)),
    }
    return {name: made[name]() for name in names}


def purifier(tier: Tier) -> Function:
    """DiffPure as the paper sets it."""
    return partial(diffpure, t=0.1, strides=tier.strides)


def treatments(tier: Tier) -> dict[str, Function | str]:
    """What an attacker may try to take the defence back with (Fig. 8), by the paper's names."""
    return {
        "JPEG": partial(jpeg, quality=50), "DiffPure": purifier(tier), "black": f"revert:{tier.black}",
        "gray": f"revert:{tier.gray}", "white": "revert:white",
    }  # fmt: skip


def _paper() -> Tier:
    ids = {
        "WideResNet-94-16": "Bartoldson2024Adversarial_WRN-94-16",
        "RaWideResNet-70-16": "Peng2023Robust",
        "WideResNet-70-16": "Wang2023Better_WRN-70-16",
        "WideResNet-34-10": "Rade2021Helper_extra",
        "WideResNet-28-10": "Xu2023Exploring_WRN-28-10",
        "PreActResNet-18": "Wong2020Fast",
        "ResNeSt-152": "Sehwag2021Proxy_ResNest152",
        "ResNet-50": "Chen2020Adversarial",
        "ResNet-18": "Addepalli2022Efficient_RN18",
        "XCiT-L12": "Debenedetti2022Light_XCiT-L12",
    }
    targets = {name: f"robustbench:{model}" for name, model in ids.items()}
    standard = "robustbench:Standard"
    backbone = "robustbench:Gowal2021Improving_R18_ddpm_100m"
    preset = Preset(
        name="mspd-paper", classifier="robustbench:Hendrycks2020AugMix_ResNeXt", backbone=backbone, targets=(), size=32,
        eps=8 / 255, n_samples=20, soft_labels=0,
    )  # fmt: skip
    return Tier(
        name="paper", preset=preset, target=targets["WideResNet-94-16"], second=targets["XCiT-L12"],
        light=targets["WideResNet-94-16"], targets=targets,
        backbones={"WideResNet-28-10": targets["WideResNet-28-10"], "WideResNet-94-16": targets["WideResNet-94-16"],
                   "PreActResNet-18": backbone},
        nonrobust={"WideResNet-28-10 (nonrobust)": standard,
                   "ResNet-56 (nonrobust)": "chenyaofo:cifar10_resnet56"},
        gray=targets["PreActResNet-18"], black=standard, surrogate=targets["ResNet-50"], n=1000, n_wide=1000,
        n_strong=1000,
    )  # fmt: skip


#: the shipped models stand for the family in whose row they are, not for its size; where there is none, for any that
#: is not the backbone's
TIERS = {
    tier.name: tier
    for tier in (
        Tier(
            name="smoke",
            preset=Preset("smoke", "rn20-cifar10", "wrn16-2-cifar10", (), 32, 8 / 255, 2, 0),
            target="rn20-cifar10", second="rn20-cifar10", light="rn20-cifar10", targets={"ResNet-18": "rn20-cifar10"},
            backbones={"PreActResNet-18": "wrn16-2-cifar10"}, nonrobust={"ResNet-56 (nonrobust)": "rn20-cifar10"},
            gray="prn18-gray-cifar10", black="rn20-cifar10", surrogate="wrn16-2-cifar10", n=8, n_wide=8, n_strong=8,
            samples=2, epochs=3, inner=2, pgd_steps=2, aa_steps=2, aa_queries=20, queries=20,
            bpda={"steps": 2, "samples": 2, "checks": 2}, cw={"steps": 2}, decowa={"steps": 1, "warps": 2},
            strides=2, curve=(1, 2, 4),
        ),
        Tier(
            name="embedded", preset=replace(PRESETS["cifar10"], targets=()), target="rn18-cifar10",
            second="xcit-cifar10", light="convnext-cifar10",
            targets={"RaWideResNet-70-16": "rawrn-cifar10", "WideResNet-70-16": "wrn22-2-cifar10",
                     "WideResNet-34-10": "wrn10-4-cifar10", "WideResNet-28-10": "wrn16-2-cifar10",
                     "PreActResNet-18": "prn18-gray-cifar10", "ResNeSt-152": "resnest-cifar10",
                     "ResNet-50": "rn50-cifar10", "ResNet-18": "rn18-cifar10", "XCiT-L12": "xcit-cifar10",
                     "ConvNeXt (not the paper's)": "convnext-cifar10"},
            backbones={"WideResNet-28-10": "wrn16-2-cifar10", "WideResNet-94-16": "wrn22-2-cifar10",
                       "PreActResNet-18": "prn18-cifar10",
                       "PreActResNet-18, wider (not the paper's)": "prn18-wide-cifar10"},
            nonrobust={"WideResNet-28-10 (nonrobust)": "wrn16-2-standard-cifar10",
                       "ResNet-56 (nonrobust)": "rn56-cifar10"},
            gray="prn18-gray-cifar10", black="rn20-cifar10", surrogate="wrn16-2-cifar10", n=500, n_wide=1000,
            n_strong=128,
            queries=2000, strides=10,
        ),
        _paper(),
        Tier(
            name="photo", preset=replace(PRESETS["photo"], targets=()), target="rn18-photo", n=128, n_wide=128,
            n_strong=128, eps_l2=2 * 64 / 224, imagenet=True,
        ),
        Tier(
            name="paper-photo",
            preset=Preset(
                name="mspd-paper-photo", classifier="robustbench:Tian2022Deeper_DeiT-B",
                backbone="robustbench:Singh2023Revisiting_ViT-S-ConvStem", targets=(), size=224, eps=4 / 255,
                n_samples=20, soft_labels=0,
            ),
            target="robustbench:Liu2023Comprehensive_Swin-L", n=1000, n_wide=1000, n_strong=1000, eps_l2=2.0,
            imagenet=True,
        ),
    )
}  # fmt: skip


def get_tier(name: str) -> Tier:
    """The tier called `name`; UsageError lists the known ones."""
    if name not in TIERS:
        raise UsageError(f"unknown tier {name!r}: choose one of {', '.join(TIERS)}")
    return TIERS[name]
