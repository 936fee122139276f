"""Search among the documents that pass a filter, then let all three scores together order what was found."""

from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient

from m3connect import Document, HybridRetriever, M3Encoder, ingest
from m3connect.filters import field

DOCUMENTS = [
    Document("rail-1830", "The first railway between two cities opened.", {"year": 1830, "topics": ["rail"]}),
    Document("rail-1964", "A high-speed railway opened between two large cities.", {"year": 1964, "topics": ["rail"]}),
    Document(
        "rail-1981", "Fast trains began to run between the two cities.", {"year": 1981, "topics": ["rail", "fast"]}
    ),
    Document(
        "air-1969", "The first flight of a supersonic passenger plane.", {"year": 1969, "topics": ["air", "fast"]}
    ),
]


def main() -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # real work wants "BAAI/bge-m3"
    store = QdrantStore(QdrantClient(":memory:"), "history", dim=encoder.dim)
    ingest(encoder, store, DOCUMENTS)
    retriever = HybridRetriever(encoder, store, rerank=True)

    modern = field("year") >= 1950
    on_rails = modern & field("topics").contains("rail")
    for name, condition in {"all": None, "since 1950": modern, "since 1950, on rails": on_rails}.items():
        print(f"{name}:")
        for hit in retriever.search("When did fast trains start?", top_k=4, filter=condition):
            legs = "  ".join(f"{leg} {score:.2f}" for leg, score in (hit.scores or {}).items())
            print(f"  {hit.score:.3f} = {legs}  {hit.document.text}")


if __name__ == "__main__":
    main()
