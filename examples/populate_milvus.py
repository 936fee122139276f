"""Fill a Milvus collection. Run it again on the same file or server: what is there is not encoded twice."""

from tempfile import TemporaryDirectory

from m3connect_milvus import MilvusStore
from pymilvus import MilvusClient

from m3connect import Document, M3Encoder, ingest

DOCUMENTS = [
    Document("bees", "Bees turn nectar into honey and keep it for the winter.", {"lang": "en"}),
    Document("bienen", "Bienen machen aus Nektar Honig und bewahren ihn für den Winter auf.", {"lang": "de"}),
    Document("tides", "The moon pulls at the sea, and the water rises and falls twice a day.", {"lang": "en"}),
    Document("marées", "La lune attire la mer, et l'eau monte et descend deux fois par jour.", {"lang": "fr"}),
]


def main(folder: str) -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # real work wants "BAAI/bge-m3"
    client = MilvusClient(f"{folder}/demo.db")  # or "http://localhost:19530"
    store = MilvusStore(client, "docs", dim=encoder.dim)

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
    with TemporaryDirectory() as folder:
        main(folder)
