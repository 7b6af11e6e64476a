"""The cases that are timed: heads of known models, lengths of text and prefix, padding.

Axes: B batch, H query heads, G key heads, T text tokens, S shared and K own prefix tokens,
P = S + K, D head dimension.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

TEXTS = (32, 64, 128, 256, 512, 1024, 2048)
PREFIXES = (2, 8, 16, 64)
#: The value of each axis while the other axis varies.
TEXT, PREFIX = 128, 16


@dataclass(frozen=True)
class Shape:
    """The attention heads of a model.

    Attributes:
        name: Name of the model.
        n_heads: H, the number of query heads.
        n_key_heads: G, the number of key heads, a divisor of H.
        dim: D, the head dimension.
        causal: Whether a token sees only the tokens up to itself.
    """

    name: str
    n_heads: int
    n_key_heads: int
    dim: int
    causal: bool


BERT = Shape("BERT-base", 12, 12, 64, causal=False)
MINILM = Shape("MiniLM", 12, 12, 32, causal=False)
LLAMA = Shape("Llama-7B-like", 32, 32, 128, causal=True)
QWEN = Shape("Qwen2-0.5B-like", 14, 2, 64, causal=True)
SHAPES = (BERT, MINILM, LLAMA, QWEN)


@dataclass(frozen=True)
class Case:
    """One attention to time.

    Attributes:
        shape: Attention heads of the model.
        n_batch: B, the number of texts.
        n_text: T, the number of text tokens in a row.
        n_shared: S, the number of prefix tokens that all texts share.
        n_own: K, the number of further prefix tokens of each text.
        padded: Whether texts are shorter than T and padded on the right.
        dtype: Name of the dtype, such as `bfloat16`.
    """

    shape: Shape
    n_batch: int
    n_text: int
    n_shared: int
    n_own: int
    padded: bool
    dtype: str

    def __str__(self) -> str:
        padding = "padded" if self.padded else "full"
        sizes = f"B{self.n_batch} T{self.n_text} P{self.n_shared}+{self.n_own}"
        return f"{self.shape.name} {sizes} {padding} {self.dtype}"

    @property
    def n_prefix(self) -> int:
        """P, the number of prefix tokens that a text sees."""
        return self.n_shared + self.n_own

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of the tensors."""
        return getattr(torch, self.dtype)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each text: T, or if padded a uniform draw from T / 4 to T."""
        if not self.padded:
            return (self.n_text,) * self.n_batch
        draw = random.Random(self.n_text)
        return tuple(draw.randint(-(-self.n_text // 4), self.n_text) for _ in range(self.n_batch))


def make_case(
    shape: Shape, n_text: int, n_prefix: int, *, n_tokens: int, padded: bool, dtype: str
) -> Case:
    """Return a case with about `n_tokens` text tokens and at most two prefix tokens per text."""
    n_own = min(2, n_prefix // 2)
    n_batch = max(1, n_tokens // n_text)
    return Case(shape, n_batch, n_text, n_prefix - n_own, n_own, padded, dtype)


def cross(
    shapes: Sequence[Shape],
    *,
    texts: Sequence[int] = TEXTS,
    prefixes: Sequence[int] = PREFIXES,
    n_tokens: int,
    dtype: str,
) -> list[Case]:
    """Return cases along one axis at a time; all have the same number of tokens, to compare times.

    For each shape these are all `texts` with `PREFIX` prefix tokens, full and padded, and then all
    other `prefixes` with `TEXT` text tokens.
    """
    sizes = [(n_text, PREFIX, padded) for padded in (False, True) for n_text in texts]
    sizes += [(TEXT, n_prefix, False) for n_prefix in prefixes if n_prefix != PREFIX]
    return [
        make_case(shape, n_text, n_prefix, n_tokens=n_tokens, padded=padded, dtype=dtype)
        for shape in shapes
        for n_text, n_prefix, padded in sizes
    ]


def gpu_grid(*, quick: bool = False) -> list[Case]:
    """Return the cases for a GPU: T of 32 to 2048, P of 2 to 64, 16,384 tokens, bfloat16.

    Args:
        quick: Return only T of 64 and 512, and P of 16.
    """
    if not quick:
        return cross(SHAPES, n_tokens=16_384, dtype="bfloat16")
    return cross(SHAPES, texts=(64, 512), prefixes=(), n_tokens=16_384, dtype="bfloat16")


def cpu_grid() -> list[Case]:
    """Return the cases for one CPU thread, which take minutes: 512 or 1024 tokens, float32."""
    sizes = [
        (MINILM, 64, PREFIX, False),
        (MINILM, 128, 2, False),
        (MINILM, 128, PREFIX, False),
        (MINILM, 128, PREFIX, True),
        (MINILM, 128, 64, False),
        (MINILM, 256, PREFIX, False),
        (BERT, 64, PREFIX, False),
        (BERT, 128, PREFIX, False),
        (BERT, 256, PREFIX, False),
        (QWEN, 64, PREFIX, False),
        (QWEN, 128, PREFIX, False),
        (QWEN, 128, PREFIX, True),
        (LLAMA, 64, PREFIX, False),
        (LLAMA, 128, PREFIX, False),
    ]
    return [
        make_case(
            shape,
            n_text,
            n_prefix,
            n_tokens=512 if shape is LLAMA else 1024,
            padded=padded,
            dtype="float32",
        )
        for shape, n_text, n_prefix, padded in sizes
    ]
