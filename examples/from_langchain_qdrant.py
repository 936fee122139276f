"""Move from langchain-qdrant: first M3's sparse weights in the class you have, then everything in a store of ours."""

from langchain_core.documents import Document
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore
from langchain_m3connect.qdrant import M3ConnectQdrantSparse
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient, models

TEXTS = ["Bees make honey from nectar.", "The moon moves the sea.", "Bread needs flour and water."]
METADATA = [{"topic": "animals"}, {"topic": "sky"}, {"topic": "food"}]


def main() -> None:
    dense = M3ConnectEmbeddings(model="m3-mini")  # real work wants "BAAI/bge-m3"
    old = QdrantVectorStore.from_texts(
        TEXTS,
        dense,
        METADATA,
        sparse_embedding=M3ConnectQdrantSparse(dense),  # shares the forward pass of `dense`
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
    )
    print("langchain-qdrant:", old.similarity_search("Who makes honey?", k=1)[0].page_content)

    points, _ = old.client.scroll(old.collection_name, limit=100)  # of many, go on with the offset it returns
    payloads = [(str(point.id), point.payload or {}) for point in points]
    documents = [Document(payload["page_content"], id=name, metadata=payload["metadata"]) for name, payload in payloads]
    store = QdrantStore(QdrantClient(":memory:"), "docs", dim=dense.dimension())
    new = M3ConnectVectorStore.from_documents(documents, dense, store=store)

    of_topic = models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="sky"))
    for found in new.similarity_search("What moves the water?", k=2, filter=models.Filter(must=[of_topic])):
        print("m3connect:", found.page_content, "id kept:", found.id in {name for name, _ in payloads})


if __name__ == "__main__":
    main()
