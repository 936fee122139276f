"""The command line: `m3connect index`, `search`, `encode`, `info`, `demo`, `train`, `mine`, `evaluate`."""

from m3connect.cli.commands import app, main
from m3connect.cli.evaluation import evaluate_command
from m3connect.cli.mining import mine_command
from m3connect.cli.training import train

app.command()(train)
app.command(name="mine")(mine_command)
app.command(name="evaluate")(evaluate_command)

__all__ = ["app", "main"]
