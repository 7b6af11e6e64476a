"""Ridge regression of the states of several layers on the same vectors.

Axes: R rows, L layers, H hidden size, E width of the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def ridge(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return `W` `[L, H, E]` and `b` `[L, H]` float32: `y[:, l]` is about `W[l] x + b[l]`.

    They have the least sum of squared errors plus `strength * R * v` times the squares of `W`,
    where v is the variance of the numbers in `x`: the same strength means the same for vectors of
    any size and number. `b` is not shrunk.

    Args:
        x: `[R, E]` vectors.
        y: `[R, L, H]` states.
        strength: Above 0.

    Raises:
        ValueError: If the shapes do not fit together, there is no row, or the strength is not
            above 0.
    """
    if x.ndim != 2 or y.ndim != 3 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"expected x [R, E] and y [R, L, H] with R > 0, got {list(x.shape)} and {list(y.shape)}"
        )
    if not strength > 0:
        raise ValueError(f"expected strength > 0, got {strength}")
    x = x.double()
    mean = x.mean(dim=0)
    x = x - mean
    # equal rows have no variance, and nothing to learn
    penalty = (strength * len(x) * x.square().mean()).clamp_min(torch.finfo(x.dtype).tiny)
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solver = torch.linalg.cholesky(gram)
    weights, biases = [], []
    # a layer at a time: all states in double precision can be many
    for layer in range(y.shape[1]):
        states = y[:, layer].double()
        weight = torch.cholesky_solve(x.T @ states, solver).T  # [H, E]
        weights.append(weight.float())
        biases.append((states.mean(dim=0) - weight @ mean).float())
    return torch.stack(weights), torch.stack(biases)
