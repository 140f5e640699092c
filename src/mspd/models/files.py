"""Weight files: half-precision safetensors, with a card (JSON) of the same name beside each; or a folder in the format
of the Hugging Face Hub: `model.safetensors`, the card as `config.json`, and a README.md for people."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mspd import atomic
from mspd.errors import UsageError, WeightsError, first_line
from mspd.models.registry import build

WEIGHTS = Path(__file__).parent / "weights"
#: the names in a folder
WEIGHT_FILE, CONFIG = "model.safetensors", "config.json"
#: what a card must say, for a model to be built and used
FIELDS = {"architecture": str, "arguments": dict, "classes": list, "sha256": str}


def load_weights(path: Path) -> nn.Module:
    """The network of a weight file that `save_model` wrote, or of a folder's `model.safetensors` by `save_folder`.

    The file's sha256 must be the card's; WeightsError for a file that is not intact. No code in a file is run.
    """
    card = read_card(path)
    data = _read(path)
    _refuse_foreign(path, data)
    digest = hashlib.sha256(data).hexdigest()
    if digest != card["sha256"]:
        raise WeightsError(f"{path}: sha256 differs from its card's: the file is damaged; copy or install it again")
    try:
        tensors = load_tensors(data)
        with torch.random.fork_rng(devices=[]):  # the first weights are drawn, to be replaced
            model = build(card["architecture"], card["arguments"])
        load_state(model, tensors)
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{path}: not the weights that its card describes ({first_line(error)})") from error
    return model


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load in place, as float32. Every name and shape must be there: ValueError names the first weight that is missing
    or too much, RuntimeError the shapes that differ."""
    floats = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    missing, unexpected = model.float().load_state_dict(floats, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{missing[0]} is missing" if missing else f"{unexpected[0]} is too much")


def save_model(model: nn.Module, path: str | Path, card: dict[str, Any]) -> None:
    """Write the weights in half precision and the card with their sha256; both replace older files atomically.
    UsageError for a file that does not end in .safetensors."""
    path = Path(path)
    check_suffix(path)
    data, card = _packed(model, card)
    write_atomically(path, data)
    write_atomically(card_beside(path), _json(card))


def save_folder(model: nn.Module, folder: str | Path, card: dict[str, Any]) -> None:
    """The same weights and card as a folder in the format of the Hugging Face Hub, ready to be uploaded there (and read
    back as `hf-hub:OWNER/NAME@REVISION`) or loaded from its path."""
    folder = Path(folder)
    data, card = _packed(model, card)
    write_atomically(folder / WEIGHT_FILE, data)
    write_atomically(folder / CONFIG, _json(card))
    write_atomically(folder / "README.md", _readme(card).encode())


def check_suffix(path: Path) -> None:
    """UsageError for a weight file of another name, which its card could replace."""
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: the weight file must end in .safetensors")


def card_beside(path: Path) -> Path:
    """The card of a weight file: the JSON file of its name, or `config.json` beside a `model.safetensors`."""
    return path.with_name(CONFIG) if path.name == WEIGHT_FILE else path.with_suffix(".json")


def checksum(model: nn.Module, start: str) -> str:
    """sha256 of `start` and of all parameters and buffers with their names."""
    digest = hashlib.sha256(start.encode())
    for key, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _packed(model: nn.Module, card: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    whole = {k: v.detach() for k, v in model.state_dict().items() if v.is_floating_point()}
    state = {k: v.half().contiguous() for k, v in whole.items()}
    lost = next((k for k, v in whole.items() if not bool(torch.isfinite(state[k]).all())), None)
    if lost is not None:
        largest = float(whole[lost].abs().amax())
        raise WeightsError(f"{lost} reaches {largest:.3g}, and half precision 65504: the model cannot be kept in it")
    data = save_tensors(state)
    return data, {**card, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _json(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def _readme(card: dict[str, Any]) -> str:
    """The page that the hub shows: its header, how to load the model, and the card as a table."""
    name = card.get("name", "model")
    shown = {key: value for key, value in card.items() if not isinstance(value, dict | list)}
    return "\n".join([
        "---", "library_name: mspd", "pipeline_tag: image-classification", "tags: [mspd, robustness]", "---", "",
        f"# {name}", "",
        "An image classifier for [mspd]: images in [0, 1], normalised inside, to logits. Load it from this folder, or",
        "from the hub by the commit of a revision:", "",
        "```python", "import mspd", "", 'model = mspd.load_model("hf-hub:OWNER/NAME@REVISION")', "```", "",
        "Whoever has a backbone can take the protection that it made back: keep the repository private.", "",
        "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items()),
        f"| classes | {', '.join(map(str, card.get('classes', [])))} |", "",
    ])  # fmt: skip


def write_atomically(path: Path, data: bytes) -> None:
    """Write or replace the file, whole or not at all, its folder made where it is missing; WeightsError on failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, data)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check its access rights") from error


def read_card(path: Path) -> dict[str, Any]:
    """What the card of a weight file says; WeightsError where it is missing or malformed."""
    card = card_beside(path)
    try:
        content = read_json(card)
    except FileNotFoundError as error:
        _refuse_foreign(path, _read(path))
        raise WeightsError(f"{path}: its card {card.name} is missing; keep both files together") from error
    for field, kind in FIELDS.items():
        value = content.get(field)
        if not isinstance(value, kind) or (field == "classes" and not all(isinstance(name, str) for name in value)):
            raise WeightsError(f"{card}: {field!r} is missing or malformed; get the model's files again")
    return content


def read_json(card: Path) -> dict[str, Any]:
    """A card's content; WeightsError when it is none, FileNotFoundError when there is no such file."""
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{card}: not a model card ({reason}); get the model's files again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{card}: not a model card; get the model's files again")
    return content


def refuse_web_page(path: Path, head: bytes, way_out: str = "the download failed, fetch the file again") -> None:
    """WeightsError if a file's first bytes are those of a web page."""
    if head.lstrip()[:64].lower().startswith((b"<!doctype", b"<html", b"<head")):
        raise WeightsError(f"{path}: this is a web page, not weights; {way_out}")


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Name the usual strangers: web pages saved in place of a file, and pickles."""
    refuse_web_page(path, head)
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):  # safetensors: a length, then "{"
        raise WeightsError(f"{path}: a pickle can run code and is never loaded; convert it to safetensors")
