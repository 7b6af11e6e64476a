"""Training of the towers on chosen samples."""

from rarec.training.arguments import training_arguments
from rarec.training.averaging import WeightAverage, check_decay
from rarec.training.batches import LengthSampler, TrainingBatch, TrainingData
from rarec.training.config import LossConfig
from rarec.training.id_scores import HardNegatives, IDScores
from rarec.training.lower_states import KeptLowerStates, LowerStates
from rarec.training.state_cache import LowerStateCache
from rarec.training.text_states import TextStates, text_states
from rarec.training.trainer import (
    RARecTrainer,
    RichProgress,
    TrainingReport,
    train,
)

__all__ = [
    "HardNegatives",
    "IDScores",
    "KeptLowerStates",
    "LengthSampler",
    "LossConfig",
    "LowerStateCache",
    "LowerStates",
    "RARecTrainer",
    "RichProgress",
    "TextStates",
    "TrainingBatch",
    "TrainingData",
    "TrainingReport",
    "WeightAverage",
    "check_decay",
    "text_states",
    "train",
    "training_arguments",
]
