"""Training M3 models."""

from m3connect.train.mining import mine, mine_file, three_head_teacher

__all__ = ["mine", "mine_file", "three_head_teacher"]
