"""ID embeddings: of sequence models trained on the interactions, or from elsewhere."""

from rarec.ids.embeddings import GivenIDs, IDEmbeddings, TrainedIDs, load_ids
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.items import IDTable, IDTextSum, ItemVectors, TextAdapter, standardise
from rarec.ids.models import MODELS, build_encoder
from rarec.ids.training import IDReport, train_encoder, train_encoders
from rarec.ids.vector_files import read_vectors

__all__ = [
    "MODELS",
    "GivenIDs",
    "HistoryEncoder",
    "IDEmbeddings",
    "IDReport",
    "IDTable",
    "IDTextSum",
    "ItemVectors",
    "TextAdapter",
    "TrainedIDs",
    "build_encoder",
    "load_ids",
    "read_vectors",
    "standardise",
    "train_encoder",
    "train_encoders",
]
