"""The vectors of the titles that an ID model reads.

Axes: N items, F width of the vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rarec.backbone import LanguageModel
from rarec.data import Dataset
from rarec.encoding import encode_texts
from rarec.ids import standardise
from rarec.pipeline.session import Session
from rarec.progress import progress_bar
from rarec.prompts import Prompts


def title_vectors(dataset: Dataset, llm: str, session: Session) -> NDArray[np.float32]:
    """Return `[N, F]` float32 vectors of the titles; a row is zero without a title.

    They are the pooled states of the language model, scaled to length one, then standardised over
    the catalogue.

    Args:
        dataset: The dataset with the titles.
        llm: Name of the language model.
        session: Session of the process.

    Raises:
        ValueError: If no item has a title.
    """
    dataset.require_titles()
    backbone, tokenizer = session.language_model(LanguageModel(llm))
    titled = np.array([bool(title) for title in dataset.titles])
    numbers = np.flatnonzero(titled)
    tokens = Prompts(tokenizer, dataset.titles).items(numbers)
    with progress_bar("read titles", len(numbers), shown=session.progress) as advance:
        vectors = encode_texts(backbone, tokens, on_rows=advance)
    table = np.zeros((dataset.n_items, vectors.shape[1]), dtype=np.float32)
    table[numbers] = vectors
    return standardise(table, titled)
