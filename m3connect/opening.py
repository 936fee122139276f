"""Stores by name: `qdrant:PATH`, `milvus:http://host:19530` and the like, opened and closed again."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from m3connect.base import Store
from m3connect.errors import CollectionNotFoundError, M3ConnectError
from m3connect.filters import FilterFields
from m3connect.token_base import TokenStoreBase

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

__all__ = ["check_spec", "check_token_spec", "is_server", "open_store", "open_token_store", "size_advice"]

_SENSIBLE = {"qdrant": 5_000, "milvus": 20_000}
"""Documents up to which an embedded database makes sense."""

_TIMEOUT = 60
"""Seconds for a request; the default of 5 is short for a batch of documents."""

_open_files: Counter[str] = Counter()
"""How many stores are open on each Milvus Lite file."""

_guard = threading.Lock()

_T = TypeVar("_T")
_FORMS = "edge:PATH, qdrant:PATH, qdrant:http://HOST:6333, milvus:PATH.db or milvus:http://HOST:19530"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a store is asked to be; `open_store` says what each part means."""

    spec: str
    place: str
    collection: str
    dim: int | None
    create: bool
    multi_vector: bool | None
    filter_fields: FilterFields


@contextmanager
def open_store(
    spec: str,
    collection: str,
    *,
    dim: int | None = None,
    create: bool = True,
    multi_vector: bool | None = False,
    filter_fields: FilterFields = (),
) -> Iterator[Store]:
    """Open a store by name and close its database at the end.

    Keys and tokens come from the environment: `QDRANT_API_KEY` and `MILVUS_TOKEN`.

    Args:
        spec: `edge:PATH`, `qdrant:PATH` or `milvus:PATH.db` for an embedded database, `qdrant:http://HOST:6333` or
            `milvus:http://HOST:19530` for a server, `qdrant::memory:` for trying.
        collection: its name.
        dim: the dimension of dense vectors; None means that the collection must exist.
        create: make the collection, and the folders of an embedded database, where they do not exist.
        multi_vector: keep token vectors, where the backend can; None takes a collection as it was made, and makes a new
            one without.
        filter_fields: metadata keys that filters ask for often, each "number" or "str" (a list of keys means
            numbers), for a new collection: such filters become faster.

    Yields:
        The store.

    Raises:
        ValueError: the spec has none of these forms.
        FileNotFoundError: an embedded database does not exist and must not be made.
        ImportError: the extra that the store needs is not installed.
        M3ConnectError: the database cannot be opened.

    Example:
        >>> with open_store("qdrant::memory:", "docs", dim=16) as store:
        ...     store.count()
        0
    """
    kind, place = check_spec(spec)
    _prepare(place, create=create and dim is not None)
    wanted = _Wanted(spec, place, collection, dim, create, multi_vector, filter_fields)
    with _OPENERS[kind](wanted) as store:
        yield store


def check_spec(spec: str) -> tuple[str, str]:
    """Split a store's name into database and place.

    Raises:
        ValueError: it has none of the known forms.

    Example:
        >>> check_spec("milvus:data/docs.db")
        ('milvus', 'data/docs.db')
    """
    kind, _, place = spec.partition(":")
    if kind not in _OPENERS or not place:
        raise ValueError(f"{spec!r} names no store: expected {_FORMS}")
    if _is_url(place) and not _is_address(place):
        raise ValueError(f"{spec!r}: {place} is no address: expected http://HOST:PORT or https://HOST:PORT")
    if kind == "milvus" and not _is_url(place) and not place.endswith(".db"):
        raise ValueError(f"{spec!r}: the path of an embedded Milvus database ends in .db, as in milvus:{place}.db")
    return kind, place


@contextmanager
def open_token_store(spec: str, collection: str, *, readonly: bool = False) -> Iterator[TokenStoreBase]:
    """Open a token store by name and close it at the end.

    Args:
        spec: a folder, or `qdrant:http://HOST:6333` for a collection on a server; the key comes from `QDRANT_API_KEY`.
        collection: the documents'; on a server its token vectors are in the collection with `-tokens` after its name. A
            folder knows ids alone: each collection needs one of its own.
        readonly: never write; the folder or collection must be there.

    Raises:
        ValueError: the spec has none of these forms.
        ImportError: the extra that it needs is not installed.
        M3ConnectError: it cannot be opened.
    """
    if check_token_spec(spec):
        from m3connect_qdrant import QdrantTokenStore

        name = f"{collection}-tokens"
        with closing(_connect_qdrant(spec)) as client:
            yield _try(spec, lambda: QdrantTokenStore(client, name, readonly=readonly))
        return
    from m3connect.token_store import TokenStore

    with TokenStore(spec, readonly=readonly) as tokens:
        yield tokens


def check_token_spec(spec: str) -> bool:
    """Tell a token store on a Qdrant server from a folder.

    Raises:
        ValueError: it names another database, or an address alone.

    Example:
        >>> check_token_spec("tokens"), check_token_spec("qdrant:http://localhost:6333")
        (False, True)
    """
    kind, colon, place = spec.partition(":")
    if not (colon and kind in _OPENERS) and "://" not in spec:
        return False
    if kind != "qdrant" or not _is_url(place):
        raise ValueError(f"{spec!r} holds no token vectors: expected a folder, or qdrant:http://HOST:6333")
    check_spec(spec)
    return True


def size_advice(spec: str, count: int) -> str | None:
    """Say what suits a collection better that has outgrown its embedded database; None as long as it has not.

    Qdrant's local mode writes some 100 documents a second and compares with every one; Milvus Lite becomes slow and
    large beyond some 20,000.

    Example:
        >>> size_advice("milvus:docs.db", 100) is None
        True
    """
    kind, place = check_spec(spec)
    if _is_url(place) or count <= _SENSIBLE.get(kind, count):
        return None
    return f"{count:,} documents are many for {kind}:{place}; edge:PATH or a server is faster"


def is_server(spec: str) -> bool:
    """Tell a database server from an embedded database."""
    return _is_url(check_spec(spec)[1])


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _prepare(place: str, *, create: bool) -> None:
    """Make the folder around an embedded database; without this a search for one would leave an empty one behind."""
    if _is_url(place) or place == ":memory:":
        return
    path = Path(place)
    if path.is_file():
        raise NotADirectoryError(f"{place} is a file: an embedded database is a folder")
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise FileNotFoundError(f"there is no database at {place}: `m3connect index` makes one")


@contextmanager
def _open_qdrant(wanted: _Wanted) -> Iterator[Store]:
    from m3connect_qdrant import QdrantStore

    on_server = is_server(wanted.spec)
    with closing(_connect_qdrant(wanted.spec)) as client:
        yield _try(
            wanted.spec,
            lambda: QdrantStore(
                client,
                wanted.collection,
                dim=wanted.dim,
                create=wanted.create,
                multi_vector=wanted.multi_vector,
                filter_fields=wanted.filter_fields if on_server else (),  # local mode has no indexes
            ),
        )


def _connect_qdrant(spec: str) -> QdrantClient:
    from qdrant_client import QdrantClient

    place = check_spec(spec)[1]

    def connect() -> QdrantClient:
        if is_server(spec):
            key = os.environ.get("QDRANT_API_KEY")
            return QdrantClient(url=place, api_key=key, timeout=_TIMEOUT, check_compatibility=False)
        return QdrantClient(place) if place == ":memory:" else QdrantClient(path=place)

    return _try(spec, connect)


@contextmanager
def _open_edge(wanted: _Wanted) -> Iterator[Store]:
    from m3connect_edge import EdgeStore

    folder = Path(wanted.place) / wanted.collection
    if Path(wanted.collection).name != wanted.collection or wanted.collection in ("", ".."):
        raise ValueError(
            f"the collection of an edge store is a folder in {wanted.place}, so it cannot be named "
            f"{wanted.collection!r}"
        )

    def connect() -> EdgeStore:
        return EdgeStore(
            folder,
            dim=wanted.dim,
            create=wanted.create,
            multi_vector=wanted.multi_vector,
            filter_fields=wanted.filter_fields,
        )

    with closing(_try(wanted.spec, connect)) as store:
        yield store


@contextmanager
def _open_milvus(wanted: _Wanted) -> Iterator[Store]:
    from m3connect_milvus import MilvusStore
    from pymilvus import MilvusClient

    place = wanted.place

    def connect() -> MilvusClient:
        return MilvusClient(place, token=os.environ.get("MILVUS_TOKEN", "") if _is_url(place) else "")

    with _lite_server(place), closing(_try(wanted.spec, connect)) as client:
        yield _try(
            wanted.spec,
            lambda: MilvusStore(
                client,
                wanted.collection,
                dim=wanted.dim,
                create=wanted.create,
                multi_vector=wanted.multi_vector,
                filter_fields=wanted.filter_fields or None,
            ),
        )


@contextmanager
def _lite_server(place: str) -> Iterator[None]:
    """Stop the server that runs inside this process with the last store of its file.

    `MilvusClient.close()` leaves it running until the process ends, and the file locked.
    """
    if _is_url(place):
        yield
        return
    path = os.path.abspath(place)
    with _guard:
        _open_files[path] += 1
    try:
        yield
    finally:
        with _guard:
            _open_files[path] -= 1
            if not _open_files[path]:
                from milvus_lite.server_manager import server_manager_instance

                del _open_files[path]
                server_manager_instance.release_server(path)


def _try(spec: str, action: Callable[[], _T]) -> _T:
    """Give a database's own errors the name of the store, and one family."""
    try:
        return action()
    except CollectionNotFoundError as error:
        raise CollectionNotFoundError(f"{spec}: {str(error).partition(':')[0]}; `m3connect index` makes one") from error
    except (ValueError, OSError, ImportError, M3ConnectError):
        raise
    except Exception as error:
        hint = "" if "://" in spec else "; only one process at a time can have an embedded database open"
        said = getattr(error, "message", None) or error  # pymilvus: without its codes
        raise M3ConnectError(f"cannot open {spec}: {said}{hint}") from error


_OPENERS: dict[str, Callable[[_Wanted], AbstractContextManager[Store]]] = {
    "edge": _open_edge,
    "qdrant": _open_qdrant,
    "milvus": _open_milvus,
}
