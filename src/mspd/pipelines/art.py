"""A preprocessor of the Adversarial Robustness Toolbox."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mspd.extras import library
from mspd.pipelines.pixels import loaded
from mspd.protector import Protector

Preprocessor: Any = library("art.defences.preprocessor.preprocessor", "'mspd[pipelines]'").Preprocessor


class ArtPreprocessor(Preprocessor):  # type: ignore[misc]
    """Protects images (B, C, H, W) in [0, 1] before ART's estimator reads them, at prediction only.

        PyTorchClassifier(model, ..., clip_values=(0, 1), preprocessing_defences=ArtPreprocessor("cifar10"))

    The label is the protector's own, never the one given. Backward it is the identity (BPDA), so that ART's attacks see
    through it.
    """

    def __init__(self, protector: Protector | str = "cifar10", *, seed: int = 0) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.protector = loaded(protector)
        self.seed = seed

    def __call__(self, x: NDArray[Any], y: Any | None = None) -> tuple[NDArray[Any], Any | None]:
        x_def = self.protector(torch.from_numpy(np.ascontiguousarray(x)), seed=self.seed)
        return x_def.numpy().astype(x.dtype), y

    def estimate_gradient(self, x: NDArray[Any], grad: NDArray[Any]) -> NDArray[Any]:
        return grad
