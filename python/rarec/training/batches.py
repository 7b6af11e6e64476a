"""Training batches: users, the different items they are scored against, and their negatives.

Axes: S samples, B batch, C candidate items, N items, L layers, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rarec.encoding import Entities
from rarec.model import EntityBatch
from rarec.selection import Samples, collisions
from rarec.training.id_scores import IDScores
from rarec.training.negatives import ExtraNegatives, HardNegatives
from rarec.training.text_states import TextStates


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The input of one step.

    Attributes:
        users: B users as they were before their targets.
        items: C different items: the targets and further negatives.
        user_rows: `[B]` numbers of the samples.
        item_rows: `[C]` numbers of the items.
        positives: `[B]` int64 column of the target of each user.
        negatives: `[B, C]` bool, true where an item is a negative of a user.
        log_probability: `[C]` float32 log of how often an item is expected in such a batch.
        same_user: `[B, B]` bool, true where two rows are of one user.
        user_text: `[B, L, H]` text-only states, or None.
        item_text: `[C, L, H]` text-only states, or None.
        id_scores: `[B, C]` float32 scores of the ID model, or None. Rows of samples that the ID
            model has no vector of are NaN.
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
        extra: Random negatives beside the items of the batch.
        hard: Hard negatives beside the items of the batch.
        text: Text-only states of the S users and the N items, for the alignment loss.
        id_scores: Scores of the ID model for the samples, to be added to those of the model.

    Raises:
        ValueError: If there is no sample, or the arguments have not as many rows as there are
            samples.
    """

    def __init__(
        self,
        samples: Samples,
        users: Entities,
        items: Entities,
        *,
        extra: ExtraNegatives | None = None,
        hard: HardNegatives | None = None,
        text: tuple[TextStates, TextStates] | None = None,
        id_scores: IDScores | None = None,
    ) -> None:
        if len(samples) == 0:
            raise ValueError("expected training samples, got none")
        for name, rows in (
            ("users", users),
            ("ID scores", None if id_scores is None else id_scores.queries),
            ("pools of hard negatives", None if hard is None else hard.pools),
        ):
            if rows is not None and len(rows) != len(samples):
                raise ValueError(f"expected {name} of {len(samples)} samples, got {len(rows)}")
        self.samples = samples
        self.users = users
        self.items = items
        self.extra = extra
        self.hard = hard
        self.text = text
        self.id_scores = id_scores
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
        """`[S]` number of tokens in the user text of each sample."""
        return self.users.tokens.lengths

    @property
    def items_per_sample(self) -> int:
        """Most items that a sample brings into a batch."""
        further = (self.extra, self.hard)
        return 1 + sum(negatives.n for negatives in further if negatives is not None)

    def possible_items(self) -> NDArray[np.int64]:
        """Return the numbers of all items that can be in a batch, ascending."""
        if self.extra is not None:
            return np.arange(len(self.items))
        expected = self._target_share
        return np.flatnonzero(expected if self.hard is None else expected + self.hard.expected)

    def batch(self, rows: ArrayLike, *, step: int) -> TrainingBatch:
        """Return the batch of the samples in `rows`.

        Args:
            rows: `[B]` sample numbers.
            step: Number of the batch. With the seeds of the negatives it fixes their draws.
        """
        rows = np.asarray(rows, dtype=np.int64)
        users, targets = self._user_numbers[rows], self._targets[rows]
        candidates, expected = self._candidates(rows, step)
        positives = np.searchsorted(candidates, targets)
        user_text, item_text = (None, None) if self.text is None else self.text
        return TrainingBatch(
            users=self.users.batch(rows),
            items=self.items.batch(candidates),
            user_rows=rows,
            item_rows=candidates.astype(np.int64),
            positives=torch.from_numpy(positives),
            negatives=torch.from_numpy(self._negatives(users, candidates, positives)),
            log_probability=torch.from_numpy(np.log(expected).astype(np.float32)),
            same_user=torch.from_numpy(users[:, None] == users[None, :]),
            user_text=None if user_text is None else user_text.rows(rows),
            item_text=None if item_text is None else item_text.rows(candidates),
            id_scores=None if self.id_scores is None else self.id_scores.of(rows, candidates),
        )

    def _candidates(
        self, rows: NDArray[np.int64], step: int
    ) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
        """Return `[C]` different items of a batch, and how often each is expected in it."""
        pools: list[NDArray[np.integer]] = [self._targets[rows]]
        expected = len(rows) * self._target_share
        if self.extra is not None:
            pools.append(self.extra.sample(self._user_numbers[rows], step=step).ravel())
        if self.hard is not None:
            drawn = self.hard.sample(rows, step=step)
            pools.append(drawn[drawn >= 0])
            expected = expected + len(rows) * self.hard.expected
        candidates = np.unique(np.concatenate(pools))
        expected = expected[candidates]
        if self.extra is not None:
            expected = expected + len(rows) * self.extra.expected(candidates)
        return candidates, expected

    def _negatives(
        self,
        users: NDArray[np.int32],
        candidates: NDArray[np.integer],
        positives: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return `[B, C]`: false at the target of each user and at all items of its history."""
        negatives = np.ones((len(users), len(candidates)), dtype=bool)
        rows, columns = collisions(self._seen, users, candidates).T
        negatives[rows, columns] = False
        negatives[np.arange(len(users)), positives] = False
        return negatives
