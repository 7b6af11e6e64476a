"""Training of the towers on chosen samples."""

from rarec.training.arguments import training_arguments
from rarec.training.batches import TrainingBatch, TrainingData
from rarec.training.callbacks import RichProgress
from rarec.training.checkpoints import newest_checkpoint
from rarec.training.id_scores import IDScores
from rarec.training.lower_states import (
    LowerStates,
    TrainingLowerStates,
    lower_states,
    training_lower_states,
)
from rarec.training.negatives import ExtraNegatives, HardNegatives
from rarec.training.order import LengthSampler
from rarec.training.run import TrainingReport, train
from rarec.training.state_cache import StateCache
from rarec.training.text_states import TextStates, text_states
from rarec.training.trainer import RARecTrainer

__all__ = [
    "ExtraNegatives",
    "HardNegatives",
    "IDScores",
    "LengthSampler",
    "LowerStates",
    "RARecTrainer",
    "RichProgress",
    "StateCache",
    "TextStates",
    "TrainingBatch",
    "TrainingData",
    "TrainingLowerStates",
    "TrainingReport",
    "lower_states",
    "newest_checkpoint",
    "text_states",
    "train",
    "training_arguments",
    "training_lower_states",
]
