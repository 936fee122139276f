"""Try the installed wheel in an environment without any extra: what a user gets from `pip install m3connect`."""

import importlib
import subprocess
import sys


def import_error(module: str) -> str:
    """Import a module whose library is missing, and return what it says."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return "no error"


def main() -> None:
    """Import, encode, store and search; adapters must name their extra."""
    import m3connect

    heavy = {"torch", "transformers", "tokenizers", "rich", "typer", "tqdm"} & set(sys.modules)
    assert not heavy, f"import m3connect loaded {heavy}"

    encoder = m3connect.M3Encoder.from_pretrained("m3-mini")
    store = m3connect.MemoryStore(dim=encoder.dim)
    texts = {
        "bees": "Bees carry pollen from flower to flower and make honey.",
        "sea": "The sea rises and falls twice a day.",
    }
    report = m3connect.ingest(encoder, store, [m3connect.Document(name, text) for name, text in texts.items()])
    assert report.stored == 2, report
    hits = m3connect.HybridRetriever(encoder, store, rerank=True).search("Who makes honey?", top_k=1)
    assert hits[0].document.id == "bees", hits

    assert import_error("numba") != "no error", (
        "the path without the extra fast cannot be tried where numba is installed"
    )
    exact, low = (
        m3connect.M3Encoder.from_pretrained("m3-mini", precision=name).encode(["bees"]) for name in ("float32", "int8")
    )
    assert (exact.dense * low.dense).sum() > 0.99, "int8 without the extra fast"

    for adapter, extra in (("m3connect_qdrant", "m3connect[qdrant]"), ("m3connect_milvus", "m3connect[milvus]")):
        assert extra in import_error(adapter), f"the error does not name {extra}"

    shown = subprocess.run([sys.executable, "-m", "m3connect", "info"], capture_output=True, text=True, check=True)
    assert m3connect.__version__ in shown.stdout, shown.stdout
    print(f"wheel of m3connect {m3connect.__version__}: 1 passed, 0 failed")


main()
