"""A stand-in for a Qdrant server: it speaks the REST interface over qdrant-client's local mode."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from pydantic import BaseModel
from qdrant_client import AsyncQdrantClient, QdrantClient, models


@dataclass
class StandIn:
    """Answers the REST requests of a client from qdrant-client's local mode, and remembers them."""

    local: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    requests: list[tuple[str, Any, int]] = field(default_factory=list)
    indexes: dict[str, Any] = field(default_factory=dict)

    def client(self) -> QdrantClient:
        return QdrantClient(url="http://127.0.0.1:1", check_compatibility=False, transport=httpx.MockTransport(self))

    def async_client(self) -> AsyncQdrantClient:
        return AsyncQdrantClient(
            url="http://127.0.0.1:1", check_compatibility=False, transport=httpx.MockTransport(self)
        )

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        if request.url.path == "/":
            return httpx.Response(200, json={"title": "qdrant", "version": "1.99.0"})
        _, name, *rest = request.url.path.strip("/").split("/")
        route = f"{request.method} {'/'.join(rest)}".strip()
        self.requests.append((route, body | dict(request.url.params), len(request.content)))
        result = plain(ROUTES[route](self.local, name, body))
        if route == "PUT index":
            kind = body["field_schema"]
            self.indexes[body["field_name"]] = {
                "data_type": kind if isinstance(kind, str) else kind["type"],
                "points": 0,
            }
        if route == "GET":
            result["payload_schema"] = self.indexes
        return httpx.Response(200, json={"result": result, "status": "ok", "time": 0})

    def sent(self, route: str) -> list[Any]:
        return [body for asked, body, _ in self.requests if asked == route]


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json(exclude_none=True))
    return [plain(one) for one in value] if isinstance(value, list) else value


def create(local: QdrantClient, name: str, body: dict[str, Any]) -> bool:
    asked = models.CreateCollection.model_validate(body)
    return local.create_collection(
        name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=asked.metadata
    )


def scroll(local: QdrantClient, name: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = models.ScrollRequest.model_validate(body)
    points, following = local.scroll(
        name, asked.filter, limit=asked.limit or 10, offset=asked.offset, with_payload=asked.with_payload or False
    )
    return {"points": plain(points), "next_page_offset": following}


def query(local: QdrantClient, name: str, body: dict[str, Any]) -> list[Any]:
    asked = models.QueryRequestBatch.model_validate(body).searches
    return list(local.query_batch_points(name, [without_params(one) for one in asked]))


def without_params(one: Any) -> Any:
    """Local mode warns when it is told to be exact, which it always is."""
    inner = [without_params(prefetch) for prefetch in one.prefetch or ()]
    return one.model_copy(update={"params": None, "prefetch": inner or None})


def upsert(local: QdrantClient, name: str, body: dict[str, Any]) -> Any:
    asked = models.PointsList.model_validate(body)
    return local.upsert(name, asked.points, update_filter=asked.update_filter)


def selector(body: dict[str, Any]) -> Any:
    return (models.PointIdsList if "points" in body else models.FilterSelector).model_validate(body)


def retrieve(local: QdrantClient, name: str, body: dict[str, Any]) -> list[Any]:
    asked = models.PointRequest.model_validate(body)
    vectors = asked.with_vector or False
    return list(local.retrieve(name, asked.ids, with_payload=asked.with_payload or False, with_vectors=vectors))


ROUTES: dict[str, Callable[[QdrantClient, str, dict[str, Any]], Any]] = {
    "GET exists": lambda local, name, _: {"exists": local.collection_exists(name)},
    "GET": lambda local, name, _: local.get_collection(name),
    "PUT": create,
    "PATCH": lambda local, name, body: local.update_collection(name, metadata=body["metadata"]),
    "PUT index": lambda *_: {"status": "completed", "operation_id": 1},
    "PUT points": upsert,
    "PUT points/vectors": lambda local, name, body: local.update_vectors(
        name, models.UpdateVectors.model_validate(body).points
    ),
    "POST points/vectors/delete": lambda local, name, body: local.delete_vectors(
        name, body["vector"], models.PointIdsList(points=body["points"])
    ),
    "DELETE": lambda local, name, _: local.delete_collection(name),
    "POST points": retrieve,
    "POST points/scroll": scroll,
    "POST points/count": lambda local, name, body: local.count(name, models.CountRequest.model_validate(body).filter),
    "POST points/delete": lambda local, name, body: local.delete(name, selector(body)),
    "POST points/query/batch": query,
}


@contextmanager
def listening(stand_in: StandIn) -> Iterator[str]:
    """Let a stand-in answer on a port of this machine; gives its URL."""
    guard = threading.Lock()  # local mode is not thread-safe

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with guard:
                answer = stand_in(httpx.Request(self.command, f"http://stand-in{self.path}", content=body))
            self.send_response(answer.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
