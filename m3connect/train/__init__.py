"""Training: the losses of M3-Embedding, length-grouped batches, mined negatives, and a loop that can be resumed."""

from m3connect.train.batching import Batch, Batches, SourceBatches
from m3connect.train.checkpoints import save_model
from m3connect.train.config import PAPER_BATCH_SIZES, TrainConfig
from m3connect.train.data import Example, read_source
from m3connect.train.loop import train
from m3connect.train.losses import UnifiedLoss, unified_loss
from m3connect.train.mining import mine, mine_file, three_head_teacher
from m3connect.train.plot import plot_log

__all__ = [
    "PAPER_BATCH_SIZES",
    "Batch",
    "Batches",
    "Example",
    "SourceBatches",
    "TrainConfig",
    "UnifiedLoss",
    "mine",
    "mine_file",
    "plot_log",
    "read_source",
    "save_model",
    "three_head_teacher",
    "train",
    "unified_loss",
]
