"""Move a collection of llama-index-vector-stores-milvus: its nodes come along whole, and get sparse weights."""

from tempfile import TemporaryDirectory

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index_m3connect import M3ConnectEmbedding, M3ConnectRetriever, M3ConnectVectorStore
from m3connect_milvus import MilvusStore
from pymilvus import MilvusClient


def fill(client: MilvusClient) -> None:
    """Stand for what you have: rows as LlamaIndex's Milvus store writes them."""
    nodes = [TextNode(id_="tides", text="The moon pulls at the sea."), TextNode(id_="bees", text="Bees make honey.")]
    client.create_collection("old", 4, id_type="string", max_length=64, vector_field_name="embedding")
    client.insert("old", [{"id": node.id_, "embedding": [0.5] * 4} | node_to_metadata_dict(node) for node in nodes])


def main(folder: str) -> None:
    client = MilvusClient(f"{folder}/demo.db")  # or "http://localhost:19530"
    fill(client)
    embedding = M3ConnectEmbedding(model_name="m3-mini")  # real work wants "BAAI/bge-m3"
    vectors = M3ConnectVectorStore(store=MilvusStore(client, "new", dim=256), encoder=embedding)  # 1024 for BGE-M3

    pages = client.query_iterator("old", batch_size=1000, output_fields=["_node_content", "_node_type"])
    while rows := pages.next():
        moved = vectors.add([metadata_dict_to_node(row) for row in rows])  # the same ids, so doing it again is safe
        print(f"moved {sorted(moved)}")

    for found in M3ConnectRetriever(vectors, similarity_top_k=1).retrieve("What pulls at the sea?"):
        print(f"{found.score:.3f}  {found.node_id}: {found.text}")
    client.close()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(folder)
