"""A torchvision v2 transform."""

from typing import Any

from PIL import Image
from torch import Tensor

from mspd.extras import library, torchvision
from mspd.pipelines.pixels import loaded, protect_image, protect_tensor
from mspd.protector import Protector

torchvision("pipelines")
v2 = library("torchvision.transforms.v2", "'mspd[pipelines]'")
Transform: Any = v2.Transform
tv_tensors = library("torchvision.tv_tensors", "'mspd[pipelines]'")


class ProtectImages(Transform):  # type: ignore[misc]
    """Protects the images of a sample: pictures of Pillow, image and video tensors (uint8, or float in [0, 1]) and,
    where there are none, the first plain tensor. Boxes, masks, labels and other plain tensors pass. Put it last, after
    resizing, before normalising.

        transform = v2.Compose([v2.ToImage(), v2.Resize(224), ProtectImages("photo", seed=7)])

    protector: a `Protector`, or the name of a preset. Same seed and image, same result.
    """

    _transformed_types = (v2.functional.is_pure_tensor, tv_tensors.Image, tv_tensors.Video, Image.Image)

    def __init__(self, protector: Protector | str = "photo", *, seed: int = 0) -> None:
        super().__init__()
        self.protector = loaded(protector)
        self.seed = seed

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, Image.Image):
            return protect_image(self.protector, inpt, self.seed)
        protected = protect_tensor(self.protector, inpt.as_subclass(Tensor), self.seed)
        return tv_tensors.wrap(protected, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else protected
