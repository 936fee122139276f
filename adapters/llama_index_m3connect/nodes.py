"""Between LlamaIndex's nodes and the documents of a store: pure functions.

A document's text is what LlamaIndex embeds: the node's content with its metadata (`MetadataMode.EMBED`), so that every
leg and a later rerank see the same text. The node itself lies beside it under names that begin with an underscore; the
node's metadata stands in the document's metadata as it is, and nothing else for filters to find.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from m3connect.filters import Filter, HasId, field
from m3connect.store import Document

__all__ = [
    "FROM_ELSEWHERE",
    "REF_DOC_ID",
    "embedded_text",
    "of_documents",
    "of_nodes",
    "stems_from",
    "to_document",
    "to_node",
]

_CONTENT = "_node_content"
_TYPE = "_node_type"
_NODE_ID = "_node_id"
REF_DOC_ID = "_ref_doc_id"
"""The metadata key of a node's source; that of a node without one is the node itself."""

_SPAN = "_text_span"
_OWN_NAMES = {_CONTENT, _TYPE, _NODE_ID, REF_DOC_ID, _SPAN}

FROM_ELSEWHERE = field(REF_DOC_ID).is_empty()
"""Passes documents of another way of ingesting: `m3connect.ingest`, the command line."""

_WITH_TEXT_RESOURCE = {kind.class_name(): kind for kind in (LlamaDocument, ImageDocument)}
"""Kinds that `metadata_dict_to_node` would give back as plain text nodes."""


def embedded_text(node: BaseNode, mode: MetadataMode = MetadataMode.EMBED) -> str:
    """Return the text that stands for a node."""
    return node.get_content(metadata_mode=mode)


def to_document(node: BaseNode) -> Document:
    """Turn a node into a document; its embedding stays behind.

    Raises:
        ValueError: the node's metadata has a key of ours, or a number that JSON cannot write.
    """
    if (wrong := _not_finite(node.metadata)) is not None:
        raise ValueError(f"node {node.node_id!r} has {wrong} in its metadata, which JSON cannot write: leave it out")
    metadata: dict[str, Any] = node.model_dump(mode="json", include={"metadata"})["metadata"]
    if taken := sorted(_OWN_NAMES & metadata.keys()):
        raise ValueError(f"node {node.node_id!r} has the metadata key {taken[0]!r}, which the store uses: rename it")
    text = embedded_text(node)
    span = _span(node, text)
    entry = node_to_metadata_dict(node, remove_text=span is not None)
    own = {
        _CONTENT: entry[_CONTENT],
        _TYPE: entry[_TYPE],
        _NODE_ID: node.node_id,
        REF_DOC_ID: node.ref_doc_id or node.node_id,
    }
    if span is not None:
        own[_SPAN] = span
    return Document(node.node_id, text, metadata | own, parent_id=node.ref_doc_id)


def to_node(document: Document) -> BaseNode:
    """Turn a document back into its node; one that another way of ingesting stored becomes a text node."""
    metadata = dict(document.metadata)
    if _CONTENT not in metadata:
        return _text_node(document)
    kind = _WITH_TEXT_RESOURCE.get(metadata[_TYPE])
    if kind is not None:
        return kind.from_json(metadata[_CONTENT])
    span = metadata.get(_SPAN)
    return metadata_dict_to_node(metadata, text=None if span is None else document.text[slice(*map(int, span))])


def of_documents(ref_doc_ids: Sequence[str]) -> Filter:
    """Select what LlamaIndex stored of these source documents; a node without a source is its own."""
    return field(REF_DOC_ID).in_(ref_doc_ids)


def stems_from(document: Document, ref_doc_ids: Collection[str]) -> bool:
    """Say whether a document from elsewhere is one of these, or a part of one."""
    return document.id in ref_doc_ids or document.parent_id in ref_doc_ids


def of_nodes(node_ids: Sequence[str]) -> Filter:
    """Select nodes by id."""
    return HasId(tuple(node_ids))


def _not_finite(value: object) -> float | None:
    """Return a number that LlamaIndex would store as null without a word, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    if not isinstance(value, dict | list | tuple):
        return None
    members = value.values() if isinstance(value, dict) else value
    return next((found for member in members if (found := _not_finite(member)) is not None), None)


def _span(node: BaseNode, text: str) -> list[int] | None:
    """Return where the node's own text begins and ends in the embedded one, so that it need not be stored twice."""
    if not isinstance(node, TextNode):
        return None
    start = text.rfind(node.text)
    return None if start < 0 else [start, start + len(node.text)]


def _text_node(document: Document) -> TextNode:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document.parent_id)} if document.parent_id else {}
    return TextNode(
        id_=document.id,
        text=document.text,
        metadata=dict(document.metadata),
        excluded_embed_metadata_keys=list(document.metadata),  # the stored vectors are of the text alone
        relationships=source,
    )
