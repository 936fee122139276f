"""Fill a Qdrant collection. Run it again on the same folder or server: what is there is not encoded twice."""

from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient

from m3connect import Document, M3Encoder, ingest

DOCUMENTS = [
    Document("bees", "Bees turn nectar into honey and keep it for the winter.", {"lang": "en"}),
    Document("bienen", "Bienen machen aus Nektar Honig und bewahren ihn für den Winter auf.", {"lang": "de"}),
    Document("tides", "The moon pulls at the sea, and the water rises and falls twice a day.", {"lang": "en"}),
    Document("marées", "La lune attire la mer, et l'eau monte et descend deux fois par jour.", {"lang": "fr"}),
]


def main() -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # real work wants "BAAI/bge-m3"
    client = QdrantClient(":memory:")  # or path="folder", or url="http://localhost:6333"
    store = QdrantStore(client, "docs", dim=encoder.dim)

    report = ingest(encoder, store, DOCUMENTS)
    print(f"stored {report.stored}, unchanged {report.unchanged}")
    again = ingest(encoder, store, DOCUMENTS)
    print(f"the second time: stored {again.stored}, unchanged {again.unchanged}")

    question = "Why does the sea rise and fall?"
    print(f"\n{question}")
    for hit in store.search(encoder.encode([question]), top_k=2, with_scores=True)[0]:
        legs = "  ".join(f"{leg} {score:.3f}" for leg, score in (hit.scores or {}).items())
        print(f"  {hit.score:.4f}  {hit.document.id}  ({legs})")
    client.close()


if __name__ == "__main__":
    main()
