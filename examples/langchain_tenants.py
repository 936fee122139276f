"""One collection, many tenants: a retriever that sees one tenant's documents, whatever a call asks for."""

from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore
from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient

from m3connect.filters import field

TEXTS = ["Honey prices rose by a tenth.", "Honey is stored in the cellar.", "The cellar is closed on Sunday."]
METADATA = [
    {"tenant": "market", "year": 2024},
    {"tenant": "farm", "year": 2023},
    {"tenant": "farm", "year": 2025},
]


def main() -> None:
    embedding = M3ConnectEmbeddings(model="m3-mini")  # real work wants "BAAI/bge-m3"
    store = QdrantStore(QdrantClient(":memory:"), "docs", dim=embedding.dimension(), tenant_field="tenant")
    vectorstore = M3ConnectVectorStore.from_texts(TEXTS, embedding, METADATA, store=store)

    def retriever_for(tenant: str) -> M3ConnectRetriever:
        return M3ConnectRetriever(vectorstore=vectorstore, filter=field("tenant") == tenant)

    calls = {
        "farm": None,
        "farm since 2024": field("year") >= 2024,
        "farm, asking for the market": field("tenant") == "market",
    }
    for name, narrower in calls.items():
        found = retriever_for("farm").invoke("Where is the honey?", filter=narrower)
        print(f"{name}: {[document.page_content for document in found]}")


if __name__ == "__main__":
    main()
