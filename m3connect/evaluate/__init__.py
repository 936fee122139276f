"""Measure what each view of M3-Embedding finds, alone and together; needs the extra `eval`."""

from m3connect.evaluate.data import Dataset, read_dataset, read_qrels
from m3connect.evaluate.evaluation import Evaluation, Row, evaluate, score_runs
from m3connect.evaluate.metrics import PairedTest, empty_share, paired_test, per_query
from m3connect.evaluate.modes import MODES, LegRuns, Mode, Protocol, fuse, run_modes, search_legs
from m3connect.evaluate.runs import Run, read_run, write_run
from m3connect.evaluate.tuning import Tuned, split_queries, tune

__all__ = [
    "MODES",
    "Dataset",
    "Evaluation",
    "LegRuns",
    "Mode",
    "PairedTest",
    "Protocol",
    "Row",
    "Run",
    "Tuned",
    "empty_share",
    "evaluate",
    "fuse",
    "paired_test",
    "per_query",
    "read_dataset",
    "read_qrels",
    "read_run",
    "run_modes",
    "score_runs",
    "search_legs",
    "split_queries",
    "tune",
    "write_run",
]
