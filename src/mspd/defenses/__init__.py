"""Defences: each is `defense(model, x, y, *, eps, norm, generator, **params) -> x_def`."""

from mspd.defenses.mcgs import mcgs

DEFENSES = {"mcgs": mcgs}

__all__ = ["DEFENSES", "mcgs"]
