"""Training batches: users, the unique items they are scored against, and who is no negative.

Axes: S samples, B batch, C candidate items, N items, L layers, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rarec.encoding import Entities
from rarec.model import EntityBatch
from rarec.selection import NegativeSampler, Samples, collisions
from rarec.training.id_scores import HardNegatives, IDScores
from rarec.training.text_states import TextStates


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """One step's input.

    Attributes:
        users: B users as they were before their targets.
        items: C different items: the targets, and extra negatives.
        user_rows: `[B]` numbers of the samples.
        item_rows: `[C]` numbers of the items.
        positives: `[B]` int64 column of each user's target.
        negatives: `[B, C]` bool: which items are true negatives of a user.
        log_probability: `[C]` float32: log of how often an item is expected in such a batch.
        same_user: `[B, B]` bool: rows of one user.
        user_text: `[B, L, H]` text-only states, or None.
        item_text: `[C, L, H]` text-only states, or None.
        id_scores: `[B, C]` float32 of the ID model, NaN in rows it has no vector of; or None.
    """

    users: EntityBatch
    items: EntityBatch
    user_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    positives: Tensor
    negatives: Tensor
    log_probability: Tensor
    same_user: Tensor
    user_text: Tensor | None = None
    item_text: Tensor | None = None
    id_scores: Tensor | None = None


class TrainingData(Dataset[int]):
    """The chosen samples, ready to be put into batches; an element is just its number.

    Args:
        samples: S samples.
        users: S rows, the user of each sample before its target.
        items: N rows, the catalogue.
        sampler: Draws extra negatives; None for in-batch ones alone.
        n_extra: Extra negatives per row of a batch.
        user_text: Text-only states of the S rows, needed by the alignment loss.
        item_text: Text-only states of the N rows.
        id_scores: Of the samples over the catalogue, needed by the distillation.
        hard: Draws hard negatives; None for none.
    """

    def __init__(
        self,
        samples: Samples,
        users: Entities,
        items: Entities,
        *,
        sampler: NegativeSampler | None = None,
        n_extra: int = 0,
        user_text: TextStates | None = None,
        item_text: TextStates | None = None,
        id_scores: IDScores | None = None,
        hard: HardNegatives | None = None,
    ) -> None:
        if len(samples) == 0:
            raise ValueError("expected training samples, got none")
        if len(users) != len(samples):
            raise ValueError(f"expected {len(samples)} users, got {len(users)}")
        if n_extra and sampler is None:
            raise ValueError(f"expected a sampler for {n_extra} extra negatives, got none")
        for name, rows in (
            ("ID scores", None if id_scores is None else id_scores.queries),
            ("pools of hard negatives", None if hard is None else hard.pools),
        ):
            if rows is not None and len(rows) != len(samples):
                raise ValueError(f"expected {name} of {len(samples)} samples, got {len(rows)}")
        self.samples = samples
        self.users = users
        self.items = items
        self.sampler = sampler
        self.n_extra = n_extra
        self.user_text = user_text
        self.item_text = item_text
        self.id_scores = id_scores
        self.hard = hard
        self._user_numbers = samples.users
        self._targets = samples.targets
        self._seen = samples.histories.sorted_unique()
        self._target_share = np.bincount(self._targets, minlength=len(items)) / len(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[S]` tokens of each sample's user text."""
        return self.users.tokens.lengths

    def batch(self, rows: ArrayLike, *, step: int) -> TrainingBatch:
        """Return the batch of the samples in `rows`.

        Args:
            rows: `[B]` sample numbers.
            step: Number of the batch; with the sampler's seed it fixes the extra negatives.
        """
        rows = np.asarray(rows, dtype=np.int64)
        users, targets = self._user_numbers[rows], self._targets[rows]
        pools: list[NDArray[np.integer]] = [targets]
        expected = len(rows) * self._target_share
        if self.sampler is not None and self.n_extra:
            pools.append(self.sampler.sample(users, self.n_extra, step=step).ravel())
        if self.hard is not None:
            drawn = self.hard.sample(rows, step=step)
            pools.append(drawn[drawn >= 0])
            expected = expected + len(rows) * self.hard.expected
        candidates = np.unique(np.concatenate(pools))
        frequency = expected[candidates]
        if self.sampler is not None and self.n_extra:
            log_q = self.sampler.log_probability(candidates)
            frequency = frequency + len(rows) * self.n_extra * np.exp(log_q)
        positives = np.searchsorted(candidates, targets)
        return TrainingBatch(
            users=self.users.batch(rows),
            items=self.items.batch(candidates),
            user_rows=rows,
            item_rows=candidates.astype(np.int64),
            positives=torch.from_numpy(positives),
            negatives=torch.from_numpy(self._negatives(users, candidates, positives)),
            log_probability=torch.from_numpy(np.log(frequency).astype(np.float32)),
            same_user=torch.from_numpy(users[:, None] == users[None, :]),
            user_text=None if self.user_text is None else self.user_text.rows(rows),
            item_text=None if self.item_text is None else self.item_text.rows(candidates),
            id_scores=None if self.id_scores is None else self.id_scores.of(rows, candidates),
        )

    def _negatives(
        self,
        users: NDArray[np.int32],
        candidates: NDArray[np.integer],
        positives: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return `[B, C]`: false at each user's own target and at all the user has in training."""
        negatives = np.ones((len(users), len(candidates)), dtype=bool)
        rows, columns = collisions(self._seen, users, candidates).T
        negatives[rows, columns] = False
        negatives[np.arange(len(users)), positives] = False
        return negatives


class LengthSampler(Sampler[int]):
    """Sample numbers in an order in which each batch holds texts of like length.

    The order depends on seed and epoch alone, so a resumed training sees the same batches.

    Args:
        lengths: `[S]` tokens of each sample.
        batch_size: Samples of a batch.
        seed: Of the order.
        pool: Batches that are sorted together: more, and padding shrinks, less, and the batches
            are more random.
    """

    def __init__(
        self, lengths: NDArray[np.int64], batch_size: int, *, seed: int, pool: int = 16
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Fix which pass over the samples comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        # the short batch is set aside before the sorting: it may be dropped, and must not always
        # be the longest texts; it comes last, or the loader would cut all that follow anew
        n_batches = len(order) // self.batch_size
        order, short = np.split(order, [n_batches * self.batch_size])
        for start in range(0, len(order), self.pool * self.batch_size):
            pool = order[start : start + self.pool * self.batch_size]
            pool[:] = pool[np.argsort(self.lengths[pool], kind="stable")]
        batches = order.reshape(n_batches, self.batch_size)
        yield from batches[generator.permutation(n_batches)].ravel().tolist()
        yield from short.tolist()
