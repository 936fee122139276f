"""The encoder: one forward pass of an XLM-R model with three heads."""
