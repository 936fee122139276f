"""What numba compiles here, for whoever computes with it: tiles of matrix products, and how functions are made.

`finding` says whether anything can be compiled; all other modules need numba.
"""

__all__: list[str] = []
