"""What a model's name means: a shipped model, an id of a hub, or the path of a weight file or of a folder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mspd.errors import UsageError, WeightsError
from mspd.models import hub
from mspd.models.files import WEIGHT_FILE, WEIGHTS, load_weights, read_card


def list_models() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in WEIGHTS.glob("*.json"))


def card_of(name: str | Path) -> dict[str, Any]:
    """The card of a model: what it is, what it knows, how good it is, and the sha256 of its weights."""
    return hub.card(str(name)) if hub.is_id(name) else read_card(_locate(name))


@torch.inference_mode(False)
def load_model(name: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """A model by its name: [0, 1] images to logits, eval mode, frozen.

    A shipped model; the path of a weight file by `save_model` or of a folder by `save_folder`; or an id of a hub:
    "robustbench:NAME", "chenyaofo:NAME", "timm:NAME", "torchvision:NAME", "hf-hub:OWNER/NAME@REVISION"
    (docs/models.md). Only ids may download something, once. UsageError for an unknown name, WeightsError for a file
    that is not intact. No code in a file is run.
    """
    model = hub.load(str(name)) if hub.is_id(name) else load_weights(_locate(name))
    return model.to(device).eval().requires_grad_(False)


def _locate(name: str | Path) -> Path:
    if str(name) in list_models():
        return WEIGHTS / f"{name}.safetensors"
    path = Path(name)
    if path.is_dir():
        path /= WEIGHT_FILE
    if path.suffix == ".safetensors" or path.exists():
        if not path.is_file():
            raise WeightsError(f"{path}: no such weight file; check the path")
        return path
    raise UsageError(
        f"unknown model {str(name)!r}: a shipped one ({', '.join(list_models())}), an id of a hub "
        f"({', '.join(hub.FORMS)}) or a .safetensors file"
    )
