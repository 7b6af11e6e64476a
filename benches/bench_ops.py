"""Prefix attention on a CPU, one thread, at the shapes of MiniLM (12 heads of 32).

The reference against attention written out, and against torch's attention of the text alone: the
second ratio is what the prefix costs. Triton's interpreter is for correctness and never timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rarec import ops

N_BATCH, N_HEADS, DIM, N_PREFIX = 64, 12, 32, 9


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_inputs(n_text: int) -> tuple[list[Tensor], Tensor]:
    """Return query, key, value, prefix key and value as Hugging Face lays them out, and a mask."""
    generator = torch.Generator().manual_seed(n_text)
    tensors = [
        torch.randn(N_BATCH, length, N_HEADS, DIM, generator=generator).transpose(1, 2)
        for length in (n_text, n_text, n_text, N_PREFIX, N_PREFIX)
    ]
    lengths = torch.randint(1, n_text + 1, (N_BATCH,), generator=generator)
    mask = (torch.arange(n_text) < lengths[:, None])[:, None, None, :]
    return [tensor.requires_grad_() for tensor in tensors], mask


def eager(inputs: list[Tensor], mask: Tensor) -> Tensor:
    query, key, value, prefix_key, prefix_value = inputs
    keys, values = torch.cat([prefix_key, key], 2), torch.cat([prefix_value, value], 2)
    mask = F.pad(mask, (prefix_key.shape[2], 0), value=True)
    logits = (query @ keys.mT * DIM**-0.5).masked_fill(~mask, float("-inf"))
    return logits.softmax(-1) @ values


@pytest.mark.parametrize("n_text", [16, 48, 128])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_prefix_attention(race: Callable[..., None], n_text: int, backward: bool) -> None:
    inputs, mask = make_inputs(n_text)
    query, key, value = inputs[:3]
    forwards = {
        "ours": lambda: ops.prefix_attention(*inputs, mask=mask),
        "eager": lambda: eager(inputs, mask),
        "no prefix": lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
    }
    torch.testing.assert_close(forwards["ours"](), forwards["eager"](), rtol=1e-4, atol=1e-5)
    gradient = torch.ones(inputs[0].shape)

    def timed(forward: Callable[[], Tensor], needed: list[Tensor]) -> Callable[[], object]:
        if backward:
            return lambda: torch.autograd.grad(forward(), needed, gradient)
        return torch.no_grad()(forward)

    peers = {
        "eager": timed(forwards["eager"], inputs),
        "no prefix": timed(forwards["no prefix"], inputs[:3]),
    }
    passes = "forward+backward" if backward else "forward"
    job = f"prefix_attention {passes} B{N_BATCH} h{N_HEADS} T{n_text} D{DIM} S{N_PREFIX}"
    race(job, timed(forwards["ours"], inputs), peers)
