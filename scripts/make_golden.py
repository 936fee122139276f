"""Write the golden numbers of tests/encoder/golden: what FlagEmbedding 1.4.2 itself says about a random checkpoint.

Run where FlagEmbedding is installed (pip install "m3connect[bench]"); the tests that read the result need it not. The
checkpoint is not kept: `write_checkpoint` makes it again from its seed, and the tests compare digests.

    python scripts/make_golden.py
"""
# ruff: noqa: RUF001  # look-alike characters are what some of the texts are for

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3connect.testing_checkpoints import checkpoint_digest, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "m3connect" / "assets" / "m3-mini"

CHECKPOINT: dict[str, Any] = {"layers": 3, "hidden": 64, "heads": 4, "intermediate": 128, "seed": 20_261_120}
"""Arguments of `write_checkpoint`; the tests read them from about.json."""

MAX_LENGTHS = (8192, 512, 16)
KEPT_ROWS = {32: 1, 512: 16, 8192: 256}
"""Texts of up to 32 token vectors keep them all, of up to 512 every 16th, longer ones every 256th; and the last."""

WEIGHTS = (1.0, 0.3, 1.0)
"""Dense, sparse, multi-vector, in FlagEmbedding's order; it divides the sum by 2.3."""

Text = str | dict[str, str | int]


def long(text: str, times: int) -> Text:
    """A text too long to write down."""
    return {"repeat": text, "times": times}


ENGLISH = "The river rises in the hills, crosses three old towns and reaches the sea after 412 kilometres. "
GERMAN = "Straßenbahnfahrer fürchten überfüllte Haltestellen; trotzdem fährt die Linie 7 pünktlich um 6:45 Uhr ab. "
RUSSIAN = "Весной река выходит из берегов, и луга вокруг деревни превращаются в озёра. "
CHINESE = "春天河水上涨，村庄周围的草地变成了湖泊。"

TEXTS: list[Text] = [
    "",
    " ",
    " \t\n \u00a0\u3000 ",
    "a",
    ".",
    "水",
    "🌊",
    "ß",
    "The river floods the meadows in spring.",
    "the river floods the meadows in spring",
    "  Leading and trailing   spaces  inside   too  ",
    "the the the the The THE",
    "3.14159 2,718,281.828 -1e-9 0x1F 50% €99.99",
    "snake_case camelCase kebab-case https://example.org/a/b?c=d&e=f#g user@example.org",
    "def f(x: int) -> int:\n\treturn {\"a\": [x ** 2]}['a'][0]  # why?",
    GERMAN,
    "L'été dernier, nous avons goûté des crêpes à Saint-Malo — c'était délicieux !",
    RUSSIAN,
    "Η θάλασσα είναι ήρεμη σήμερα.",
    "في الربيع يفيض النهر على المروج.",
    "السَّلَامُ عَلَيْكُمْ",
    "באביב הנהר עולה על גדותיו.",
    "עברית and English ועוד 123 mixed العربية",
    "\u202bright to left override\u202c \u200fmark\u200e",
    CHINESE,
    "春になると川が氾濫します。東京タワーは333メートルです。",
    "봄에는 강물이 초원을 덮칩니다.",
    "ในฤดูใบไม้ผลิแม่น้ำท่วมทุ่งหญ้า",
    "वसन्त में नदी घास के मैदानों में बाढ़ लाती है।",
    "வசந்த காலத்தில் ஆறு பெருக்கெடுக்கிறது.",
    "በጸደይ ወቅት ወንዙ ሜዳውን ያጥለቀልቃል።",
    "გაზაფხულზე მდინარე დიდდება.",
    "དཔྱིད་ཀར་ཆུ་བོ་འཕེལ།",
    "Mùa xuân nước sông tràn ngập đồng cỏ.",
    "<s> </s> <pad> <mask> <unk>",
    "<s>",
    "<mask>",
    "<pad><pad><pad>",
    "a <pad> in the middle moves the positions behind it",
    "the <mask> floods </s> and ends <s> twice <unk>",
    "< s > <S> &lt;s&gt; [CLS] [SEP] <|endoftext|>",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ☕️ 1️⃣",
    "Cafe\u0301 vs Caf\u00e9, A\u030a vs \u00c5, \u1100\u1161\u11a8 vs \uac01",
    "Z\u0361\u0327a\u0335\u0322l\u0334\u0321g\u0337o\u0338",
    "zero\u200bwidth\u200cjoin\u200ders\ufeff and soft\u00adhyphen",
    "\ufeffbyte order mark first",
    "line one\nline two\r\nline three\rline four\u2028line five\x0bsix\x0cseven",
    "nul \x00 and bell \x07 and escape \x1b[31m",
    "ﬁﬂ ½ ² ™ ① Ａｂｃ ｶﾀｶﾅ",
    "𝔐𝔞𝔱𝔥 𝒇𝒓𝒂𝒌𝒕𝒖𝒓 𓂀 𐍈 \U000e0041",
    "\ue000 private \uf8ff use",
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapitän pneumonoultramicroscopic",
    long("x", 300),
    long("ab cd ", 150),
    long(ENGLISH, 12),
    long(RUSSIAN + GERMAN, 6),
    long(CHINESE, 14),
    long("rain ", 509),
    long("rain ", 510),
    long("rain ", 511),
    long(ENGLISH, 200),
    long("rain ", 8_189),
    long("rain ", 8_190),
    long("rain ", 8_191),
    long(ENGLISH + RUSSIAN + CHINESE + GERMAN, 120),
    long("<mask> 🌊 " + RUSSIAN, 400),
    long(" ", 20_000),
]

PAIRS = [(8, 9), (8, 15), (8, 17), (17, 24), (3, 4), (0, 8), (8, 0), (0, 0), (34, 39), (9, 54), (12, 57), (25, 60)]
"""(query, passage) as positions in TEXTS: equal, translated, empty, special and long ones."""


def expand(text: Text) -> str:
    """The text itself."""
    return text if isinstance(text, str) else str(text["repeat"]) * int(text["times"])


@dataclass(frozen=True, slots=True)
class Case:
    """One text at one max_length, as FlagEmbedding encoded it."""

    text: int
    max_length: int
    dense: npt.NDArray[np.float32]
    lexical: dict[int, float]
    vectors: npt.NDArray[np.float32]

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """Which token vectors are kept."""
        count = len(self.vectors)
        step = next(step for most, step in KEPT_ROWS.items() if count <= most)
        return np.unique([*range(0, count, step), count - 1]).astype(np.int32)


def encode_all(model: Any, texts: list[str], tokens: list[int]) -> Iterator[Case]:  # noqa: ANN401  # FlagEmbedding has no types
    """Encode all texts at the largest max_length, and those that a smaller one cuts at that one too."""
    for max_length in MAX_LENGTHS:
        chosen = [i for i, n in enumerate(tokens) if max_length == max(MAX_LENGTHS) or n > max_length]
        found = model.encode(
            [texts[i] for i in chosen],
            batch_size=1,
            max_length=max_length,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )
        views = zip(chosen, found["dense_vecs"], found["lexical_weights"], found["colbert_vecs"], strict=True)
        for i, dense, lexical, vectors in views:
            weights = sorted((int(token), float(weight)) for token, weight in lexical.items())
            yield Case(i, max_length, dense, dict(weights), vectors)


def pack(cases: list[Case], tokens: list[int]) -> dict[str, Any]:
    """The cases as flat arrays."""
    rows = [case.rows for case in cases]
    return {
        "tokens": np.array(tokens, np.int32),
        "text": np.array([case.text for case in cases], np.int16),
        "max_length": np.array([case.max_length for case in cases], np.int16),
        "dense": np.array([case.dense for case in cases], np.float32),
        "sparse_indptr": np.cumsum([0, *(len(case.lexical) for case in cases)], dtype=np.int32),
        "sparse_ids": np.array([token for case in cases for token in case.lexical], np.int32),
        "sparse_values": np.array([weight for case in cases for weight in case.lexical.values()], np.float32),
        "vector_counts": np.array([len(case.vectors) for case in cases], np.int32),
        "vector_indptr": np.cumsum([0, *map(len, rows)], dtype=np.int32),
        "vector_rows": np.concatenate(rows),
        "vectors": np.concatenate(
            [case.vectors[kept] for case, kept in zip(cases, rows, strict=True)], dtype=np.float32
        ),
    }


def score_pairs(model: Any, texts: list[str]) -> dict[str, Any]:  # noqa: ANN401  # FlagEmbedding has no types
    """Scores of PAIRS; only batch_size=1 is sound, because FlagEmbedding's padding takes part in the maximum."""
    scores = model.compute_score(
        [(texts[query], texts[passage]) for query, passage in PAIRS],
        batch_size=1,
        max_query_length=512,
        max_passage_length=8192,
        weights_for_different_modes=list(WEIGHTS),
    )
    names = {"dense": "dense", "sparse": "sparse", "multi_vector": "colbert", "hybrid": "colbert+sparse+dense"}
    return {f"score_{ours}": np.array(scores[theirs], np.float64) for ours, theirs in names.items()}


def make(out: Path) -> None:
    """Write the checkpoint, encode, and save texts.json, golden.npz and about.json in `out`."""
    import torch
    from FlagEmbedding import BGEM3FlagModel

    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    texts = [expand(text) for text in TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(folder, tokenizer_folder=TOKENIZER, **CHECKPOINT)
        model = BGEM3FlagModel(str(checkpoint), use_fp16=False, devices=["cpu"])
        tokens = [len(ids) for ids in model.tokenizer(texts)["input_ids"]]
        arrays = {**pack(list(encode_all(model, texts, tokens)), tokens), **score_pairs(model, texts)}
        digest = checkpoint_digest(checkpoint)
    np.savez_compressed(out / "golden.npz", pairs=np.array(PAIRS, np.int16), **arrays)
    libraries = ("FlagEmbedding", "torch", "transformers", "tokenizers", "numpy")
    about = {
        "checkpoint": CHECKPOINT,
        "checkpoint_sha256": digest,
        "tokenizer_sha256": hashlib.sha256((TOKENIZER / "tokenizer.json").read_bytes()).hexdigest(),
        "hybrid_weights": WEIGHTS,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }
    write_json(out / "about.json", about)
    write_json(out / "texts.json", TEXTS)
    print(f"{len(arrays['text'])} cases of {len(texts)} texts, {(out / 'golden.npz').stat().st_size:,} bytes")


def write_json(path: Path, content: object) -> None:
    """Write in ASCII, so that no editor or checkout changes invisible characters or line ends."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write golden numbers from FlagEmbedding for the encoder's tests.")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "encoder" / "golden")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
