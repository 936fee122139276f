"""What numba compiles here, for whoever computes with it: tiles of matrix products, and how functions are made."""
