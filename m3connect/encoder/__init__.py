"""The encoder: one forward pass of an XLM-R model gives dense, sparse and multi-vector views of a text."""

from m3connect.encoder.encoder import M3Encoder

__all__ = ["M3Encoder"]
