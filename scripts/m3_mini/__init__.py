"""How the bundled demonstration model `m3-mini` is made; run `scripts/build_m3_mini.py`."""

__all__: list[str] = []
