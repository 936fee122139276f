"""The parts of frameworks.py."""
