"""A training step of a whole language model, with the fused kernels and with the reference.

The weights of the model are random and frozen; the time of a layer does not depend on its weights.
A step reads a batch of texts with a prefix in each layer, forward and backward to the prefixes.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import Tensor

from benches.attention.timing import Run, take_turns, warm_up
from rarec import ops
from rarec.backbone import Backbone

#: The first is compared with the second.
IMPLEMENTATIONS = ("fused", "reference")


@dataclass(frozen=True)
class Step:
    """A training step of a language model.

    Attributes:
        model: Name of the model, a key of `MODELS`.
        n_batch: B, the number of texts.
        n_text: T, the number of tokens of the longest text; the others have T / 4 to T.
        n_shared: S, the number of prefix tokens that all texts share.
        n_own: K, the number of further prefix tokens of each text.
        dtype: Name of the dtype.
    """

    model: str
    n_batch: int
    n_text: int
    n_shared: int = 8
    n_own: int = 1
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.model} B{self.n_batch} T{self.n_text} P{self.n_shared}+{self.n_own}"


@dataclass(frozen=True)
class StepRow:
    """The time and the memory of a step with both implementations.

    Attributes:
        step: Description of the step.
        error: Largest difference of the two results, relative to the largest number of the
            reference.
        fused_ms: Median milliseconds with the fused kernels.
        reference_ms: Median milliseconds with the reference.
        ratio: Time of the reference divided by the time of the fused kernels, median over rounds:
            above 1 if the fused kernels are faster.
        fused_mb: Largest number of megabytes allocated by a step with the fused kernels.
        reference_mb: Largest number of megabytes allocated by a step with the reference.
    """

    step: str
    error: float
    fused_ms: float
    reference_ms: float
    ratio: float
    fused_mb: float | None
    reference_mb: float | None


def _bert(**sizes: Any) -> transformers.PreTrainedModel:
    return transformers.BertModel(transformers.BertConfig(vocab_size=1000, **sizes))


def _qwen2() -> transformers.PreTrainedModel:
    config = transformers.Qwen2Config(
        vocab_size=1000,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
    )
    return transformers.Qwen2Model(config)


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "MiniLM-L6": lambda: _bert(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "BERT-base": _bert,
    "Qwen2-0.5B": _qwen2,
}
#: Texts as long as a title, as the five titles of a user, and as a long description.
STEPS = tuple(
    Step(model, n_batch, n_text)
    for model in MODELS
    for n_batch, n_text in ((512, 32), (256, 64), (128, 128), (32, 512))
)


def _require_fused(step: Step, backbone: Backbone, device: str) -> None:
    """Raise ValueError if the kernels cannot run a step: else the reference would run silently."""
    config = backbone.model.config.get_text_config()
    case = ops.Case(
        device=device,
        dtype=getattr(torch, step.dtype),
        dim=config.hidden_size // config.num_attention_heads,
        n_text=step.n_text,
        n_prefix=step.n_shared + step.n_own,
        packed=True,
    )
    ops.choose(case, "fused")
    if backbone.packing is None:
        raise ValueError(f"expected a model that reads packed texts, got {step.model}")


def measure_step(step: Step, device: str, *, rounds: int) -> StepRow:
    """Return the time and the memory of a step with each of `IMPLEMENTATIONS`, run in turns.

    Args:
        step: The step to run.
        device: `cpu` or `cuda`.
        rounds: Number of timed runs of each implementation.

    Raises:
        ValueError: If the fused kernels cannot run the step.
    """
    torch.manual_seed(0)
    dtype: torch.dtype = getattr(torch, step.dtype)
    language_model: Any = MODELS[step.model]()
    backbone = Backbone(language_model.to(device, dtype))
    _require_fused(step, backbone, device)
    draw = random.Random(0)
    lengths = [
        step.n_text,
        *(draw.randint(step.n_text // 4, step.n_text) for _ in range(1, step.n_batch)),
    ]
    mask = (torch.arange(step.n_text) < torch.tensor(lengths)[:, None]).long().to(device)
    tokens = torch.randint(100, 1000, mask.shape).to(device)
    prefixes = [
        torch.randn(
            (backbone.n_layers, *tokens_of, backbone.hidden_size), device=device, dtype=dtype
        ).requires_grad_()
        for tokens_of in ((step.n_shared,), (step.n_batch, step.n_own))
    ]
    weights = torch.randn(*mask.shape, backbone.hidden_size, device=device, dtype=dtype)

    def run(implementation: str) -> list[Tensor]:
        with patch.dict(os.environ, {ops.IMPLEMENTATION_VARIABLE: implementation}):
            states = backbone.last_hidden_states(tokens, mask, shared=prefixes[0], own=prefixes[1])
            gradients = torch.autograd.grad((states * weights)[mask.bool()].sum(), prefixes)
        return [states.detach() * mask[..., None], *gradients]

    ours, theirs = (run(name) for name in IMPLEMENTATIONS)
    error = max(
        float((one.double() - other.double()).abs().max() / other.double().abs().max())
        for one, other in zip(ours, theirs, strict=True)
    )
    del ours, theirs
    runs = {name: Run(lambda: None, lambda _, name=name: run(name)) for name in IMPLEMENTATIONS}
    memory = {name: warm_up(one, device) for name, one in runs.items()}
    times = take_turns(runs, device, rounds)
    fused, reference = (times[name] for name in IMPLEMENTATIONS)
    ratios = [b / a for a, b in zip(fused, reference, strict=True)]
    return StepRow(
        str(step),
        error,
        statistics.median(fused),
        statistics.median(reference),
        statistics.median(ratios),
        *(memory[name] for name in IMPLEMENTATIONS),
    )


def step_table(rows: Sequence[StepRow]) -> str:
    """Return a table in Markdown."""
    columns = ("step", "reference / fused", "ms, fused", "ms, reference", "MB, fused",
               "MB, reference", "difference")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        megabytes = ("-" if x is None else f"{x:.0f}" for x in (row.fused_mb, row.reference_mb))
        lines.append(
            f"| {row.step} | {row.ratio:.2f} | {row.fused_ms:.2f} | {row.reference_ms:.2f} | "
            f"{' | '.join(megabytes)} | {row.error:.1e} |"
        )
    return "\n".join(lines)
