"""Where the training of projectors starts, if not at random: at the texts' states.

The alignment loss pulls soft prompts towards the text-only states of each layer; the closest that a
projector can come to them, in squares, is a ridge regression.

Axes: R rows (users or items), K ID vectors of each, L layers, H hidden size, E width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from rarec.encoding import Entities
from rarec.model import Tower, ridge
from rarec.recommender.aligned import AlignedModel
from rarec.training import TextStates, TrainingData

#: Users or items at most that a projector is fitted to.
_MOST_ROWS = 4096
#: Of the regression; see `rarec.model.ridge`.
_STRENGTH = 0.1


def start_projectors(aligned: AlignedModel, data: TrainingData, *, seed: int) -> None:
    """Set the projectors of both towers to the regression of text-only states on ID vectors.

    States count by their direction, as in the alignment loss: each is given the size that soft
    prompts start with. Items without a title are left out.

    Args:
        aligned: The model; the scales of its ID vectors are already set.
        data: Users and items, and their text-only states if it has them.
        seed: Of the choice of rows, where there are many.

    Raises:
        ValueError: If no user, or no item with a title, has an ID vector.
    """
    titled = np.array([bool(title) for title in aligned.prompts.titles])
    _start(aligned, aligned.model.user, data.users, data.user_text, None, seed)
    _start(aligned, aligned.model.item, data.items, data.item_text, titled, seed)


def _start(
    aligned: AlignedModel,
    tower: Tower,
    entities: Entities,
    states: TextStates | None,
    usable: NDArray[np.bool_] | None,
    seed: int,
) -> None:
    vectors = entities.id_vectors
    fit = np.full(len(entities), vectors is not None)
    for mask in (entities.has_id, usable):
        if mask is not None:
            fit &= mask
    rows = np.flatnonzero(fit)
    if vectors is None or len(rows) == 0:
        raise ValueError(
            "expected users, and items with titles, that have ID vectors for "
            "projector_start='ridge', got none"
        )
    if len(rows) > _MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_ROWS, replace=False))
    if states is None:
        directions = aligned.text_states(entities.tokens.take(rows)).rows(np.arange(len(rows)))
    else:
        directions = states.rows(rows)
    directions = directions[:, aligned.model.prompted_layers]
    weight, bias = ridge(torch.from_numpy(vectors[rows].mean(axis=1)), directions, _STRENGTH)
    # the directions have length one, and so a root mean square of 1 / sqrt(H)
    sizes = tower.prompt_sizes.cpu() * math.sqrt(directions.shape[2])
    tower.set_projections(weight * sizes[:, None, None], bias * sizes[:, None])
