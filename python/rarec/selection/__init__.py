"""Selection of the training samples of the language model, and sampling of negatives."""

from rarec.selection.choice import SelectionReport, buckets, select
from rarec.selection.denoising import TitleWords, denoise, word_overlaps
from rarec.selection.negatives import NegativeSampler, collisions
from rarec.selection.samples import Samples, held_out_mask, training_samples
from rarec.selection.stop_words import ENGLISH_STOP_WORDS, LANGUAGES, stop_words

__all__ = [
    "ENGLISH_STOP_WORDS",
    "LANGUAGES",
    "NegativeSampler",
    "Samples",
    "SelectionReport",
    "TitleWords",
    "buckets",
    "collisions",
    "denoise",
    "held_out_mask",
    "select",
    "stop_words",
    "training_samples",
    "word_overlaps",
]
