"""Models: built-in architectures, shipped weights with their cards, the files of a user, and the models of hubs."""

from mspd.models.files import save_folder, save_model
from mspd.models.hub.published import PUBLISHED
from mspd.models.names import card_of, list_models, load_model
from mspd.models.registry import ARCHITECTURES, build

__all__ = [
    "ARCHITECTURES", "PUBLISHED", "build", "card_of", "list_models", "load_model", "save_folder", "save_model",
]  # fmt: skip
