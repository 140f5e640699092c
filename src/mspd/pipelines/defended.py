"""A model behind the defence, as one module: for foolbox and whoever attacks a module."""

from torch import Tensor, nn

from mspd.pipelines.pixels import loaded
from mspd.protector import Protector


class Defended(nn.Module):
    """model(protect(x)) for x (B, C, H, W) in [0, 1], with the identity as the defence's backward pass (BPDA, Athalye
    et al. 2018).

        fmodel = foolbox.PyTorchModel(Defended(model, "cifar10").eval(), bounds=(0, 1))

    It protects what the attacker hands in, so it measures mspd as a purifier; to measure it as it is meant, protect
    first and attack the protected images (`mspd benchmark`).
    """

    def __init__(self, model: nn.Module, protector: Protector | str = "cifar10", *, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.protector = loaded(protector)
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.protector(x.detach(), seed=self.seed) + (x - x.detach()))
        return logits
