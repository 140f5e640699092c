"""Models: built-in architectures, shipped weights with their cards, and the files of a user."""

from mspd.models.files import card_of, list_models, load_model, save_model
from mspd.models.registry import ARCHITECTURES, build

__all__ = ["ARCHITECTURES", "build", "card_of", "list_models", "load_model", "save_model"]
