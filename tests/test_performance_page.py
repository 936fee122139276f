"""benchmarks/page.py writes docs/performance.md from the benchmarks' JSON, whatever rows it has."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

ABOUT = {
    "date": "2026-02-03",
    "processor": "A processor (2 cores)",
    "threads": 2,
    "rounds": 3,
    "load_average_before": 0.25,
    "versions": {"m3connect": "0.1.0", "FlagEmbedding": "1.4.2", "lmdb": None},
}
WORKLOAD = {
    "name": "mixed lengths, 6 x 384",
    "texts": 2,
    "tokens": 1200,
    "seconds": {
        "FlagEmbedding, default": [4.0, 9.0, 6.0],
        "another library": [1.5, 1.5, 1.5],
        "m3connect, float32": [2.0, 1.0, 3.0],
        "m3connect, int8": [0.5, 0.5, 0.4],
    },
    "cosines": {"float32": 1.0, "int8": 0.9991},
    "gemm_flops": {},
    "fraction_of_gemm": {"float32": 0.83},
}
STAGES = {"encode": 0.01, "search": 0.002, "fetch": 0.003, "encode candidates": 0.0, "rerank": 0.005, "total": 0.02}
SEARCHED = {"documents": 1000, "depth": 30, "backend": "edge", "seconds": [STAGES], "median_seconds": STAGES}
RATIO = {"documents": 1000, "depth": 30, "backend": "edge", "peer": "by hand, encode", "times": 12.5}
WAITS = {"queries_per_second": 30.0, "p50_ms": 20.0, "p99_ms": 50.0}
STORED = {"size": 1000, "ingest": 1.18, "hybrid": 1.02, "dense": 1.6, "sparse": 1.01, "filtered": 1.03}
ASKED = {"median_seconds": 0.1, "times_ours": 1.84, "passes_per_text": 2.0, "encoder_share": 0.9, "samples": []}
FEW = {"name": "small model", "layers": 6, "hidden": 384, "rounds": 3, "phases": ["ask"]}
TEST = {"difference": 0.001, "p_value": 0.547, "better": 6, "worse": 5, "queries": 11}
REPORTS: dict[str, dict[str, Any]] = {
    "encode": {"workloads": [WORKLOAD]},
    "encode_query": {"workloads": [WORKLOAD]},
    "encode_memory": {"workloads": [], "memory": [{"precision": "int8", "peak_mb": 512.25, "within": True}]},
    "gpu": {
        "workloads": [
            {
                "name": "8,192 tokens",
                "texts": 64,
                "tokens": 524288,
                "seconds": {"m3connect": [2.0, 1.0, 3.0], "tokenising alone": [0.5, 0.5, 0.5]},
                "fraction_of_matmul": {"m3connect": 0.512},
                "bytes_beside_weights": {"m3connect": 882e6, "tokenising alone": 0},
                "left_out": {"FlagEmbedding": "OutOfMemoryError: CUDA out of memory."},
            }
        ],
        "gpu": "A GPU",
        "left_out": {},
        "bytes_of_all_weights": 1.53e9,
        "lowest_cosine_to_float32": 0.99991,
    },
    "search": {
        "model": "6 x 384",
        "results": [{**SEARCHED, "contender": "m3connect, TokenStore", "shared": [1.0, 0.9]}],
        "ratios": [{**RATIO, "contender": "m3connect, TokenStore"}],
    },
    "rerank": {
        "clock": "wall",
        "times": [
            {
                "documents": 100,
                "tokens": 12135,
                "median": {"colbert_score": 0.024, "ours, int8": 0.003},
                "same_best": {"colbert_score": True, "ours, int8": False},
            }
        ],
        "encodings": {
            "model": "m3-mini",
            "dataset": "demonstration",
            "rows": [{"encoding": "int8", "pooling": 2, "bytes_at_1024": 63033.1, "best_ten": 0.886}],
        },
    },
    "sparse": {"seconds": {"one query": {"a loop over tokens, dicts": 0.05, "m3connect, SparseRows": 0.005}}},
    "concurrency": {
        "clients": {"8": {"FlagEmbedding behind a lock": WAITS, "m3connect": {**WAITS, "queries_per_second": 300.0}}},
        "beside_a_long_text": {"alone_p50_ms": 8.0, "beside_p50_ms": 6.3, "beside_p99_ms": 14.0, "long_text_ms": 1e4},
    },
    "stores": {
        "ratios": [{**STORED, "backend": "edge", "against": "by hand", "hybrid_ms_more": 0.81}],
        "edge_against_local": [STORED],
        "growth": [],
        "recall": [{"backend": "edge", "index": "exact", "documents": 400, "recall@10 dense": 1.0, "extra": 5}],
        "figures": [],
    },
    "frameworks": {"contenders": [{"workload": FEW, "group": "LangChain, Qdrant", "contender": "its", "ask": ASKED}]},
    "training_memory": {
        "tables": [
            {
                "title": "4 queries",
                "column": "vocabulary",
                "megabytes": {"8,000": {"m3connect": 124.4, "FlagEmbedding": None}},
            }
        ]
    },
    "mcls": {
        "model": "m3-mini",
        "sets": {
            "meetings": {
                "one <s>": {"means": {"nDCG@10": 0.278, "Recall@5": 0.32}, "seconds": 2.0},
                "every 256": {"means": {"nDCG@10": 0.2796, "Recall@5": 0.32}, "seconds": 2.0, "against": TEST},
            }
        },
    },
}
"""As each benchmark writes it, the smallest that says something."""

EXPECTED = {
    "encode": "| FlagEmbedding, default | 200 | 6,000 | 4,000 .. 9,000 | 3.00 | 12.0 |",
    "encode_query": "Share of the machine's own matrix product, measured in the same rounds: float32 83 %.",
    "encode_memory": "| int8 | 512 | yes |",
    "gpu": "| tokenising alone | 1,048,576 | 500 | 500 .. 500 | 0.25 |",
    "search": "| 1,000 | 30 | edge | by hand, encode | 12.5 |",
    "rerank": "| ours, int8 | 3.00 | 8.00 | no |",
    "sparse": "| m3connect, SparseRows | 5.00 | 10.0 |",
    "concurrency": "| m3connect | 300, x 10.0 (50.0 ms) |",
    "stores": "| 1,000 | edge | by hand | 1.18 | 1.02 (+0.8 ms) | 1.60 | 1.01 | 1.03 |",
    "frameworks": "| small model, rounds: 3 | LangChain, Qdrant | its | - | - | 1.84 | 2.00 |",
    "training_memory": "| 8,000 | 124 | - |",
    "mcls": "| meetings | every 256 | 28.0 | 0.55 | 6 / 5 |",
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("page")


def test_the_committed_page_is_what_the_committed_figures_give(page: Any) -> None:
    written = page.page(REPOSITORY / "benchmarks" / "results")
    assert (REPOSITORY / "docs" / "performance.md").read_bytes() == written.encode(), "run: python benchmarks/page.py"


def test_the_command_writes_the_page_from_a_folder(page: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(REPOSITORY / "benchmarks" / "results", results)
    page.main(results=results, out=tmp_path / "page.md")
    assert (tmp_path / "page.md").read_bytes() == (REPOSITORY / "docs" / "performance.md").read_bytes()


def test_every_benchmark_has_an_example_here(page: Any) -> None:
    assert [section.name for section in page.SECTIONS] == list(REPORTS) == list(EXPECTED)


@pytest.mark.parametrize("name", REPORTS)
def test_figures_become_rows_with_what_they_were_measured_on(page: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps({**ABOUT, **REPORTS[name]}), encoding="utf-8")
    lines = page.page(tmp_path).splitlines()
    section = next(one for one in page.SECTIONS if one.name == name)
    assert EXPECTED[name] in lines
    told = next(line for line in lines if line.startswith(f"`{section.command({})}`"))
    assert "rounds: 3, threads: 2" in told
    gpu = ", A GPU" if name == "gpu" else ""
    assert told.endswith(
        f"2026-02-03, A processor (2 cores){gpu}, load average 0.2 before; m3connect 0.1.0, FlagEmbedding 1.4.2."
    )


@pytest.mark.parametrize("name", REPORTS)
def test_tables_have_as_many_cells_in_each_row(page: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps({**ABOUT, **REPORTS[name]}), encoding="utf-8")
    tables = [part.splitlines() for part in page.page(tmp_path).split("\n\n") if part.startswith("|")]
    assert tables
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1, rows


def test_a_benchmark_without_figures_is_named_with_its_command(page: Any, tmp_path: Path) -> None:
    written = page.page(tmp_path)
    for section in page.SECTIONS:
        command = section.command({})
        assert f"\nNot measured yet. What measures it:\n\n```\n{command}\n```\n" in written
        script = command.split()[1]
        assert (REPOSITORY / script).is_file(), script
        assert f"--json benchmarks/results/{section.name}.json" in command


def test_a_gpu_is_shown_with_its_limit_its_memory_and_who_had_too_little(page: Any, tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({**ABOUT, **REPORTS["gpu"]}), encoding="utf-8")
    lines = page.page(tmp_path).splitlines()
    assert "Share of the GPU's own matrix product, measured in the same rounds: m3connect 51 %." in lines
    assert "Most memory taken on the GPU, weights not counted: m3connect 882 MB; tokenising alone 0.00 MB." in lines
    assert "Left out: FlagEmbedding (OutOfMemoryError: CUDA out of memory.)." in lines
    weights = "Weights of all together: 1.53 GB."
    assert f"{weights} Lowest cosine of a dense vector to that of float32 on the processor: 0.99991." in lines


def test_a_run_that_was_skipped_is_no_measurement(page: Any, tmp_path: Path) -> None:
    found = {"date": "2026-02-03", "command": "gpu.py --quick", "skipped": "skipped: there is no GPU here"}
    (tmp_path / "gpu.json").write_text(json.dumps(found), encoding="utf-8")
    command = "python benchmarks/gpu.py --json benchmarks/results/gpu.json"
    said = f"What measures it:\n\n```\n{command}\n```\n\nThe last run was skipped: there is no GPU here.\n"
    assert said in page.page(tmp_path)


@pytest.mark.parametrize("given", [["--json", "x.json"], ["--json=x.json"]])
def test_the_page_tells_the_command_that_made_the_figures(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    arguments = ["--rounds", "3", *given, "--only", "mixed lengths", str(tmp_path / "sets" / "val")]
    monkeypatch.setattr("sys.argv", ["/somewhere/encode.py", *arguments])
    importlib.import_module("machine").write_report(tmp_path / "encode.json", {**ABOUT, **REPORTS["encode"]})
    command = "python benchmarks/encode.py --rounds 3 --only 'mixed lengths' .../sets/val"
    assert f"\n`{command} --json benchmarks/results/encode.json`, " in page.page(tmp_path)


def test_contenders_workloads_and_memory_that_are_new_in_encode_are_shown(page: Any, tmp_path: Path) -> None:
    more = {**WORKLOAD, "name": "one long text", "left_out": {"m3serve": "no processor"}, "unknown": 3}
    memory = [{"precision": "int8", "tokens": 9000, "peak_mb": 512.25, "within": True}]
    report = {**ABOUT, "workloads": [WORKLOAD, more], "memory": memory, "rows": []}
    (tmp_path / "encode.json").write_text(json.dumps(report), encoding="utf-8")
    written = page.page(tmp_path)
    assert "| another library | 800 | 1,500 | 1,500 .. 1,500 | 0.75 | 3.00 |" in written
    assert "**one long text** (2 texts, 1,200 tokens)" in written
    assert "Left out: m3serve (no processor)." in written
    assert (
        "| precision | tokens | peak mb | within |\n| --- | --- | --- | --- |\n| int8 | 9,000 | 512 | yes |" in written
    )
