"""ID embeddings: bring your own vectors, or train a model (one file a model)."""

from rarec.ids.embeddings import GivenIDs, IDEmbeddings, TrainedIDs, load_ids, read_vectors
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.text import standardised
from rarec.ids.training import MODELS, IDConfig, IDReport, train_encoder

__all__ = [
    "MODELS",
    "GivenIDs",
    "HistoryEncoder",
    "IDConfig",
    "IDEmbeddings",
    "IDReport",
    "TrainedIDs",
    "load_ids",
    "read_vectors",
    "standardised",
    "train_encoder",
]
