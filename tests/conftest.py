"""Fixtures of more than one test file."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new uninitialised float tensors with NaN, so that memory never written shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *args, **options: poison(empty(*args, **options)))
    monkeypatch.setattr(
        torch, "empty_like", lambda *args, **options: poison(empty_like(*args, **options))
    )
