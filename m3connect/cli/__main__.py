"""Lets `python -m m3connect.cli` do what `m3connect` does."""

from m3connect.cli.commands import main

main()
