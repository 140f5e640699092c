"""A node of ComfyUI. Its package is a folder in `custom_nodes` with one `__init__.py`:

from mspd.pipelines.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mspd.pipelines.pixels import protect_tensor
from mspd.presets import PRESETS
from mspd.protector import Protector


@lru_cache(maxsize=2)
def _protector(preset: str, levels: int) -> Protector:
    return Protector(preset, eps=levels / 255)


class ProtectNode:
    """Images in, protected images out: put it last, before the picture is saved (as PNG)."""

    CATEGORY = "image/postprocessing"
    DESCRIPTION = "Helps robust image classifiers to keep reading the picture correctly when somebody attacks it later."
    FUNCTION = "protect"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("protected",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:  # noqa: N802 (ComfyUI calls it)
        return {
            "required": {
                "image": ("IMAGE",),
                "preset": (list(PRESETS), {"default": "photo"}),
                "levels": ("INT", {"default": 4, "min": 1, "max": 16, "tooltip": "budget in grey levels of 255"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "tooltip": "keep it private"}),
            }
        }

    def protect(self, image: Tensor, preset: str, levels: int, seed: int) -> tuple[Tensor]:
        """image: (B, H, W, 3) float in [0, 1], ComfyUI's own form."""
        with torch.inference_mode(False):  # which ComfyUI calls nodes in: networks made there would have no gradients
            protector = _protector(preset, levels)
        protected = protect_tensor(protector, image.clamp(0, 1).movedim(-1, 1), seed)
        return (protected.movedim(1, -1).contiguous(),)


NODE_CLASS_MAPPINGS = {"MspdProtect": ProtectNode}
NODE_DISPLAY_NAME_MAPPINGS = {"MspdProtect": "Protect (mspd)"}
