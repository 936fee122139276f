"""Index a folder of your own .txt, .md, .jsonl and .csv files: python index_a_folder.py FOLDER "question"."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from m3connect import HybridRetriever, M3Encoder, ingest
from m3connect.opening import open_store
from m3connect.readers import read_documents


def make_files(folder: Path) -> Path:
    (folder / "notes").mkdir()
    (folder / "notes" / "bread.md").write_text("# Bread\nFlour, water, salt and yeast, baked in a hot oven.\n")
    (folder / "tea.txt").write_text("Pour boiling water over the leaves and wait for three minutes.\n")
    (folder / "faq.jsonl").write_text(
        '{"id": "soup", "text": "Cook the vegetables slowly.", "lang": "en"}\n{"text": 7}\n'
    )
    (folder / "list.csv").write_text("id,text,year\ncake,Beat the eggs with sugar and bake,1994\n")
    return folder


def main(folder: Path, question: str, database: Path) -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # real work wants "BAAI/bge-m3"
    documents = read_documents([folder], on_problem=lambda file, line, why: print(f"set aside: {file}:{line}: {why}"))
    with open_store(f"qdrant:{database}", "files", dim=encoder.dim) as store:
        report = ingest(encoder, store, documents)
        print(f"{report.stored} documents stored, {report.unchanged} unchanged")
        for hit in HybridRetriever(encoder, store, rerank=True).search(question, top_k=3):
            print(f"  {hit.score:.3f}  {hit.document.id}  {dict(hit.document.metadata)}")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else make_files(Path(temporary))
        asked = sys.argv[2] if len(sys.argv) > 2 else "How much salt is in the bread?"
        with TemporaryDirectory() as databases:
            main(given, asked, Path(databases, "qdrant"))
