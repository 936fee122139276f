"""Rerank what a retriever you already have brings, with the token vectors of M3-Embedding."""

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectReranker

TEXTS = [
    "A train stopped at the old station.",
    "The first railway between two cities opened in 1830.",
    "Fast trains began to run between the two cities in 1981.",
]


def existing(embedding: M3ConnectEmbeddings) -> BaseRetriever:
    """Stands for yours: a dense retriever that brings more than you need."""
    return InMemoryVectorStore.from_texts(TEXTS, embedding).as_retriever(search_kwargs={"k": 3})


def show(title: str, documents: list[Document]) -> None:
    print(f"{title}:")
    for document in documents:
        scores = document.metadata.get("scores", {})
        print(f"  {document.page_content}  {({leg: round(score, 2) for leg, score in scores.items()}) or ''}")


def main() -> None:
    embedding = M3ConnectEmbeddings(model="m3-mini")  # real work wants "BAAI/bge-m3"
    retriever, question = existing(embedding), "When did fast trains start?"
    show("as retrieved", retriever.invoke(question))

    reranker = M3ConnectReranker(embedding=embedding, top_n=2, scores_key="scores").as_runnable()
    chain = RunnableParallel(documents=retriever, query=RunnablePassthrough()) | reranker
    show("reranked", chain.invoke(question))


if __name__ == "__main__":
    main()
