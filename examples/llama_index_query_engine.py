"""A LlamaIndex query engine over hybrid search with rerank: one forward pass of the model a question."""

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index_m3connect import M3ConnectEmbedding, M3ConnectRerank, M3ConnectVectorStore
from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient

DOCUMENTS = [
    Document(text="Bees turn nectar into honey and keep it for the winter.", metadata={"topic": "bees"}),
    Document(text="The moon pulls at the sea, and the water rises and falls twice a day.", metadata={"topic": "sea"}),
    Document(text="Bread is made of flour, water and salt, and rises before it is baked.", metadata={"topic": "bread"}),
]


def main() -> None:
    embedding = M3ConnectEmbedding(model_name="m3-mini")  # real work wants "BAAI/bge-m3"
    store = QdrantStore(QdrantClient(":memory:"), "docs", dim=256)  # 1024 for BGE-M3
    vectors = M3ConnectVectorStore(store=store, encoder=embedding)
    context = StorageContext.from_defaults(vector_store=vectors)
    index = VectorStoreIndex.from_documents(DOCUMENTS, storage_context=context, embed_model=embedding)

    engine = index.as_query_engine(
        llm=MockLLM(),  # repeats what it was asked; put your own here
        vector_store_query_mode="hybrid",
        similarity_top_k=3,
        node_postprocessors=[M3ConnectRerank(model_name="m3-mini", top_n=2)],
    )
    response = engine.query("Why does the water of the sea rise?")
    for found in response.source_nodes:
        print(f"{found.score:.3f}  {found.metadata['topic']}: {found.text}")
    print(f"the language model read:\n{response}")


if __name__ == "__main__":
    main()
