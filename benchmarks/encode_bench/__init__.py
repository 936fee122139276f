"""The parts of benchmarks/encode.py."""
