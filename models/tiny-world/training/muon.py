"""Muon (Keller Jordan, 2024): momentum whose update is orthogonalised, for hidden matrices and convolutions;
AdamW for everything else. Its step is scaled to AdamW's (Liu et al., 2025), so both share one rate."""

import torch


def orthogonal(matrix, steps=5):
    """Five Newton-Schulz steps towards the nearest semi-orthogonal matrix.

    All steps are polynomials of one small Gram matrix, so the large matrix is multiplied only twice.
    """
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    gram, one = x @ x.T, torch.eye(min(x.shape))
    product = one
    for _ in range(steps):
        factor = 3.4445 * one - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter, group):
        state = self.state[parameter]
        grad = parameter.grad.reshape(len(parameter), -1)
        velocity = state.setdefault("velocity", torch.zeros_like(grad))
        velocity.lerp_(grad, 1 - group["momentum"])
        update = orthogonal(grad.lerp(velocity, group["momentum"]))
        update *= 0.2 * max(update.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(update.view(parameter.shape), alpha=group["lr"])


class Both:
    """Muon and AdamW behind one interface."""

    def __init__(self, named, lr, betas=(0.9, 0.99), weight_decay=0.01):
        named = [(name, p) for name, p in named if p.requires_grad]
        hidden = [p for name, p in named if p.ndim >= 2 and not self.at_the_edge(name)]
        mine = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in mine]
        self.parts = [Muon(hidden, lr, weight_decay=weight_decay),
                      torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0)]

    @staticmethod
    def at_the_edge(name):
        return any(part in name for part in ("embedding.weight", "conv_in", "conv_out", "quant_conv"))

    @property
    def param_groups(self):
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self):
        for part in self.parts:
            part.step()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states):
            part.load_state_dict(state)
