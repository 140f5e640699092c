"""Attacks: each is `attack(model, x, y, *, eps, norm, generator, **params) -> x_adv`."""

from mspd.attacks.pgd import pgd

ATTACKS = {"pgd": pgd}

__all__ = ["ATTACKS", "pgd"]
