"""Attacks: each is `attack(model, x, y, *, eps, norm, generator, **params) -> x_adv`."""

from collections.abc import Callable

from torch import Tensor

from mspd.attacks.apgd import apgd, apgd_t
from mspd.attacks.autoattack import autoattack
from mspd.attacks.bpda_eot import bpda_eot
from mspd.attacks.cw import cw, cw_pgd
from mspd.attacks.decowa import decowa
from mspd.attacks.fab import fab_t
from mspd.attacks.mcg import mcg
from mspd.attacks.pgd import pgd, smallest_eps
from mspd.attacks.rays import rays
from mspd.attacks.square import square

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "pgd": pgd,
    "cw": cw,
    "cw_pgd": cw_pgd,
    "apgd": apgd,
    "apgd_t": apgd_t,
    "fab_t": fab_t,
    "square": square,
    "mcg": mcg,
    "autoattack": autoattack,
    "rays": rays,
    "decowa": decowa,
    "bpda_eot": bpda_eot,
}

__all__ = [
    "ATTACKS", "apgd", "apgd_t", "autoattack", "bpda_eot", "cw", "cw_pgd", "decowa", "fab_t", "mcg", "pgd", "rays",
    "smallest_eps", "square",
]  # fmt: skip
