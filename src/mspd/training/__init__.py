"""Train the models that mspd ships, or a private backbone of one's own (paper, VIII.B)."""

from mspd.training.loop import train
from mspd.training.recipe import Recipe, get_recipe, list_recipes

__all__ = ["Recipe", "get_recipe", "list_recipes", "train"]
