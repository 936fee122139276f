"""Loads a model in a process of its own, step by step as it is told; run by test_loading_memory.py.

Says `ready` when everything is imported, waits for a line, loads and encodes, says `done`, and waits again.
"""

import sys
from typing import Any

from m3connect import M3Encoder

precision: Any
folder, precision = sys.argv[1:]
M3Encoder.from_pretrained("m3-mini", precision=precision).encode(["all is imported, compiled and started"])
print("ready", flush=True)
sys.stdin.readline()
encoder = M3Encoder.from_pretrained(folder, precision=precision)
encoder.encode(["bees make honey"], multi_vector=True)
print("done", flush=True)
sys.stdin.readline()
