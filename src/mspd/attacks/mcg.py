"""MCG (Yin et al. 2023, "Generalizable black-box adversarial attack with meta learning"): a generator's guess, made for
the image, and Square from there."""

import copy

import torch
from torch import Tensor, nn

from mspd.attacks.square import square
from mspd.attacks.surrogates import surrogate_for
from mspd.ball import image_generators, normals
from mspd.errors import UsageError
from mspd.guard import check_counts, check_eps, check_images, check_positive, eval_mode
from mspd.models import load_model
from mspd.models.flow import ConditionalFlow
from mspd.objectives import margin

#: Square's first share of the image, and how far into its schedule it begins, since the start is good already
P_INIT, SKIP = 0.3, 500
#: the shipped flow, and the surrogate that it was trained on
WEIGHTS = FLOW, SURROGATE = "mcg-cifar10", "prn18-cifar10"
#: what a surrogate's lead is not pushed below
FLOOR = -5.0


def mcg(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    n_queries: int = 10_000,
    flow: ConditionalFlow | None = None,
    surrogate: nn.Module | str = SURROGATE,
    tuning: int = 2,
    lr: float = 1e-3,
    queries: Tensor | None = None,
) -> Tensor:
    """Query the model with a perturbation from `flow`, then with Square's from there; return x_adv.

    x (B, 3, H, W) in [0, 1], sides multiples of 8; y (B,) true labels. For each image a copy of the flow (the shipped
    one unless given) takes `tuning` Adam steps of rate `lr` down the margin of `surrogate`, a model that the attacker
    has or a name as `load_model` takes it (unless given the one that the shipped flow was trained on); neither costs
    queries. `n_queries` and `queries` as in `square`. Left out is the published tuning of the surrogate to the target's
    answers on earlier images: it would make an image's result depend on the images before it. The shipped flow is small
    and was trained for minutes. Linf only. Errors as in `pgd`, and InputError for a surrogate of other classes.
    """
    check_images(x)
    check_eps(eps, norm)
    if norm != "Linf":
        raise UsageError("mcg perturbs in Linf only: use norm='Linf'")
    if x.shape[1] != 3 or x.shape[2] % 8 or x.shape[3] % 8:
        raise UsageError("mcg needs pictures with three channels and sides that 8 divides: use square")
    if flow is not None and not isinstance(flow, ConditionalFlow):
        raise UsageError(
            f"flow is a {type(flow).__name__}: pass a ConditionalFlow, as mspd.load_model gives the shipped one"
        )
    check_counts(0, tuning=tuning)
    check_positive(lr=lr)

    def guess(live: Tensor, classes: int) -> Tensor:
        """One image at a time, so that the others do not matter."""
        noise = normals(x.shape[1:], image_generators(x, generator)).to(x)
        net, own = _load_flow() if flow is None else flow, surrogate_for(surrogate, x, y, classes)
        with eval_mode(own):
            return torch.cat([_tuned(net, own, noise[[i]], x[[i]], y[[i]], eps, tuning, lr) for i in live.tolist()])

    return square(
        model, x, y, eps=eps, generator=generator, n_queries=n_queries, p_init=P_INIT, start=guess, skip=SKIP,
        queries=queries,
    )  # fmt: skip


def _tuned(
    flow: ConditionalFlow, surrogate: nn.Module, noise: Tensor, x: Tensor, y: Tensor, eps: float, steps: int, lr: float
) -> Tensor:
    """The guess for one image x (1, 3, H, W), of a copy of the flow tuned on it."""
    tuned = copy.deepcopy(flow).to(x.device).requires_grad_(True)
    latents = tuned.latents_of(noise)
    parameters = list(tuned.parameters())
    optimiser = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            loss = surrogate_loss(surrogate, tuned, latents, x, y, eps)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimiser.step()
    with torch.no_grad():
        return perturbed(tuned, latents, x, eps)


def perturbed(flow: ConditionalFlow, latents: list[Tensor], x: Tensor, eps: float) -> Tensor:
    """x with the flow's perturbation, clipped to the budget and to [0, 1]."""
    moved: Tensor = (x + eps * flow.generate(latents, x).clamp(-1, 1)).clamp(0, 1)
    return moved


def surrogate_loss(
    surrogate: nn.Module, flow: ConditionalFlow, latents: list[Tensor], x: Tensor, y: Tensor, eps: float
) -> Tensor:
    """The surrogate's mean lead of the label at the flow's picture, cut off at FLOOR: what the flow descends."""
    lead = -margin(surrogate(perturbed(flow, latents, x, eps)).float(), y)
    return lead.clamp_min(FLOOR).mean()


def _load_flow() -> ConditionalFlow:
    flow = load_model(FLOW)
    assert isinstance(flow, ConditionalFlow)
    return flow
