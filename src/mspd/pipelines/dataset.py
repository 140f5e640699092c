"""A function for `map` of the Hugging Face library datasets."""

from functools import cached_property
from typing import Any

from mspd.errors import UsageError
from mspd.pipelines.pixels import protect_image
from mspd.protector import Protector


class ProtectColumn:
    """Protects a column of pictures, example by example or in batches; the other columns stay.

        protected = dataset.map(ProtectColumn("photo", column="image", seed=7))

    preset: its name; the models are loaded at the first picture, in each process that maps. Only the settings go into
    datasets' fingerprint and to other processes, so the same settings find the cached result again.
    """

    def __init__(self, preset: str = "photo", *, column: str = "image", seed: int = 0, device: str = "auto") -> None:
        self.preset = preset
        self.column = column
        self.seed = seed
        self.device = device

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "protector"}

    @cached_property
    def protector(self) -> Protector:
        return Protector(self.preset, device=self.device)

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        if self.column not in example:
            raise UsageError(
                f"no column {self.column!r}, only {', '.join(map(repr, example))}: name the pictures' column"
            )
        value = example[self.column]
        if isinstance(value, list):
            return {self.column: [protect_image(self.protector, picture, self.seed) for picture in value]}
        return {self.column: protect_image(self.protector, value, self.seed)}
