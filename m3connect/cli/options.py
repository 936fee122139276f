"""What the commands share: their options, where output goes, and how errors are shown."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer
from rich.console import Console

from m3connect.cli.conditions import FORMS
from m3connect.cli.messages import message_of
from m3connect.errors import M3ConnectError
from m3connect.opening import check_spec, check_token_spec

if TYPE_CHECKING:
    from m3connect.encoder import M3Encoder

__all__ = [
    "EXIT_CODES",
    "EXIT_FAILED",
    "EXIT_SET_ASIDE",
    "EXIT_WRONG",
    "Collection",
    "Debug",
    "Device",
    "Filters",
    "Model",
    "ModelPrecision",
    "Precision",
    "Store",
    "TokenStoreSpec",
    "check_store",
    "check_token_store",
    "choose_store",
    "load_encoder",
    "notes",
    "reports_errors",
    "results",
]

EXIT_FAILED = 1
EXIT_WRONG = 2
EXIT_SET_ASIDE = 3
EXIT_CODES = """Exit codes: 0 done; 1 failure, said in one line (--debug shows the traceback); 2 wrong usage or input;
3 indexed, but some documents were set aside; 130 interrupted."""

_DEFAULT_STORE = "edge:m3connect-index"
_DEMONSTRATION_MODEL = "m3-mini"
_WIDTH_OF_FILES = 80
_DATABASES = {"qdrant_client", "pymilvus", "milvus_lite", "grpc", "httpx", "huggingface_hub", "requests"}
_LOUD = ("milvus_lite", "pymilvus")
"""Libraries that log a traceback beside the error they raise."""

_P = ParamSpec("_P")


def check_token_store(spec: str | None) -> str | None:
    """Refuse the name of a token store before any work begins."""
    if spec is not None:
        try:
            check_token_spec(spec)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return spec


def check_store(spec: str | None) -> str | None:
    """Refuse the name of a store before any work begins."""
    if spec is not None:
        try:
            check_spec(spec)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return spec


Store = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        callback=check_store,
        help="edge:PATH, qdrant:PATH or milvus:PATH.db for an embedded database, qdrant:URL or milvus:URL for a "
        "server. Keys: QDRANT_API_KEY, MILVUS_TOKEN. Where Qdrant Edge is installed, the default is the folder "
        "m3connect-index here.",
    ),
]
Collection = Annotated[str, typer.Option(help="The collection in the store.")]
Model = Annotated[
    str | None,
    typer.Option(help="A name on the Hugging Face hub, a folder, or m3-mini (the default, for demonstration)."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", "--where", metavar="CONDITION", help=f"{FORMS}. May be repeated, and then all must hold."),
]
TokenStoreSpec = Annotated[
    str | None,
    typer.Option(
        "--token-store",
        metavar="FOLDER",
        callback=check_token_store,
        show_default=False,
        help="A folder with the documents' token vectors in int8, for reranking: `index` fills it in the same pass, "
        "`search --rerank` reads it instead of encoding candidates again. One folder a collection. Or qdrant:URL, for "
        "a collection on a server.",
    ),
]


class Precision(StrEnum):
    """What a model computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


ModelPrecision = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        show_default=False,
        help="What the model computes in; bfloat16 and int8 take less time and memory on many processors. Default: "
        "float32 on a processor, bfloat16 on a GPU that has it.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="What computes: cpu, or a GPU of CUDA, as cuda or cuda:1.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def results() -> Console:
    """Return the console of standard output; where it is no terminal, as wide as most of them are."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return Console(width=width, highlight=False)


def notes() -> Console:
    """Return the console of standard error, where everything goes that is no result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def choose_store(spec: str | None) -> str:
    """Return the store that was named, or say which folder is taken where Qdrant Edge can be used."""
    if spec is not None:
        return spec
    if find_spec("qdrant_edge") is None:
        raise typer.BadParameter('name one, or install "m3connect[qdrant-edge]"', param_hint="'--store'")
    notes().print(f"note: using {_DEFAULT_STORE}, a folder of Qdrant Edge; --store names another", style="dim")
    return _DEFAULT_STORE


def load_encoder(
    model: str | None, *, precision: Precision | None = None, device: str = "cpu", mcls: int | None = None
) -> M3Encoder:
    """Load a model, and say so where nobody chose it."""
    from m3connect.encoder import M3Encoder

    if model is None:
        notes().print(
            f"note: using {_DEMONSTRATION_MODEL}, a small demonstration model; real work wants --model BAAI/bge-m3",
            style="dim",
        )
    return M3Encoder.from_pretrained(
        model or _DEMONSTRATION_MODEL,
        precision=None if precision is None else precision.value,
        device=device,
        mcls=mcls,
    )


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """Show what went wrong in one line and exit with 1; `--debug` lets the traceback through."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if not kwargs.get("debug"):
            for name in _LOUD:
                logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            command(*args, **kwargs)
        except Exception as error:
            if kwargs.get("debug") or not _is_expected(error):
                raise
            notes().print(f"error: {message_of(error)}", style="red", markup=False)
            raise typer.Exit(EXIT_FAILED) from error

    return run


def _is_expected(error: Exception) -> bool:
    """Tell the caller's and the world's errors from our own bugs, whose traceback somebody must see."""
    if isinstance(error, BrokenPipeError | typer.Exit | typer.Abort):
        return False
    ours = isinstance(error, ValueError | OSError | ImportError | M3ConnectError)
    return ours or type(error).__module__.partition(".")[0] in _DATABASES
