"""Weight files: half-precision safetensors, with a card (JSON) of the same name beside each."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from mspd.errors import UsageError, WeightsError
from mspd.models.registry import build

WEIGHTS = Path(__file__).parent / "weights"
#: what a card must say, for a model to be built and used
FIELDS = {"architecture": str, "arguments": dict, "classes": list, "sha256": str}


def list_models() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in WEIGHTS.glob("*.json"))


def card_of(name: str | Path) -> dict[str, Any]:
    """The card of a shipped model or of a weight file."""
    return _read_card(_locate(name))


def load_model(name: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """A shipped model by name, or one written by `save_model` by path: [0, 1] images to logits, eval mode, frozen.

    The file's sha256 must be the card's. UsageError for an unknown name, WeightsError for a file that is not intact.
    Nothing is downloaded, no code in a file is run.
    """
    path = _locate(name)
    card = _read_card(path)
    data = _read(path)
    _refuse_foreign(path, data)
    digest = hashlib.sha256(data).hexdigest()
    if digest != card["sha256"]:
        raise WeightsError(f"{path}: sha256 differs from its card's: the file is damaged; copy or install it again")
    try:
        tensors = load_tensors(data)
        model = build(card["architecture"], card["arguments"])
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{path}: not the weights that its card describes ({str(error).splitlines()[0]})") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise WeightsError(f"{path}: not the weights that its card describes ({(missing + unexpected)[0]})")
    return model.to(device).eval().requires_grad_(False)


def save_model(model: nn.Module, path: str | Path, card: dict[str, Any]) -> None:
    """Write the weights in half precision and the card with their sha256; both replace older files atomically."""
    path = Path(path)
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    data = save_tensors(state)
    card = {**card, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_atomically(path, data)
    write_atomically(path.with_suffix(".json"), (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write or replace the file, whole or not at all, its folder made where it is missing; WeightsError on failure."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check its access rights") from error


def _locate(name: str | Path) -> Path:
    if str(name) in list_models():
        return WEIGHTS / f"{name}.safetensors"
    path = Path(name)
    if path.suffix == ".safetensors" or path.exists():
        if not path.is_file():
            raise WeightsError(f"{path}: no such weight file")
        return path
    raise UsageError(f"unknown model {str(name)!r}: a shipped one ({', '.join(list_models())}) or a .safetensors file")


def _read_card(path: Path) -> dict[str, Any]:
    card = path.with_suffix(".json")
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        _refuse_foreign(path, _read(path))
        raise WeightsError(f"{path}: its card {card.name} is missing; keep both files together") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{card}: not a model card ({reason}); get the model's files again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{card}: not a model card; get the model's files again")
    for field, kind in FIELDS.items():
        if not isinstance(content.get(field), kind):
            raise WeightsError(f"{card}: {field!r} is missing or malformed; get the model's files again")
    return content


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Name the usual strangers: web pages saved in place of a file, and pickles."""
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        raise WeightsError(f"{path}: this is a web page, not weights; the download failed, fetch the file again")
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):  # safetensors: a length, then "{"
        raise WeightsError(f"{path}: a pickle can run code and is never loaded; convert it to safetensors")
