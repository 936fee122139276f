"""The command line: `m3connect index`, `search`, `encode`, `info`, `demo`, `train`."""

from m3connect.cli.commands import app, main
from m3connect.cli.training import train

app.command()(train)

__all__ = ["app", "main"]
