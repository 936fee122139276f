"""The command line: `m3connect index`, `search`, `encode`, `info`, `demo`."""

from m3connect.cli.commands import app, main

__all__ = ["app", "main"]
