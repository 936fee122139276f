"""The command line: `m3connect index`, `search`, `encode`, `info`, `demo`, `train`, `mine`, `evaluate` and others."""

from m3connect.cli.commands import app, main
from m3connect.cli.evaluation import evaluate_command
from m3connect.cli.mining import mine_command
from m3connect.cli.precision import compare_precision
from m3connect.cli.training import train

app.command()(train)
app.command(name="mine")(mine_command)
app.command(name="evaluate")(evaluate_command)
app.command(name="compare-precision")(compare_precision)

__all__ = ["app", "main"]
