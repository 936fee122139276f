"""A LangChain chain that answers from documents: hybrid search with reranking finds what the model is given to read."""

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore

DOCUMENTS = [
    Document("The moon pulls at the sea, and the water rises and falls twice a day.", id="tides"),
    Document("Bees turn nectar into honey and keep it for the winter.", id="bees"),
    Document("Bread is made of flour, water and salt.", id="bread"),
]
PROMPT = ChatPromptTemplate.from_template("Answer from this alone:\n{context}\n\nQuestion: {question}")


def join(documents: list[Document]) -> str:
    return "\n".join(f"[{document.id}] {document.page_content}" for document in documents)


def show(prompt: PromptValue) -> PromptValue:
    print(prompt.to_string())
    return prompt


def main() -> None:
    embedding = M3ConnectEmbeddings(model="m3-mini")  # real work wants "BAAI/bge-m3"
    vectorstore = M3ConnectVectorStore.from_documents(DOCUMENTS, embedding)  # store= takes Qdrant, Edge or Milvus
    retriever = M3ConnectRetriever(vectorstore=vectorstore, k=2, rerank=True)
    model = FakeListChatModel(responses=["The moon pulls at it [tides]."])  # put your chat model here
    reading = {"context": retriever | join, "question": RunnablePassthrough()}
    chain = reading | PROMPT | RunnableLambda(show) | model | StrOutputParser()
    print(f"\n{chain.invoke('Why does the sea rise and fall?')}")


if __name__ == "__main__":
    main()
