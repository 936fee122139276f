"""`python -m m3connect` is the command line."""

from m3connect.cli import main

main()
