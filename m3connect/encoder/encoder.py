"""`M3Encoder`: texts in, three views out, one forward pass a text."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from m3connect.embeddings import FloatArray, IntArray, M3Embeddings, SparseRows
from m3connect.encoder.checkpoint import find_folder, read_config, read_heads, read_weights
from m3connect.encoder.fingerprint import Samples, fingerprint_of
from m3connect.encoder.graphs import with_graphs
from m3connect.encoder.lexical import largest_weights, lexical_rows, rows_at
from m3connect.encoder.mcls import insert_cls, is_cls, mean_cls, text_limit
from m3connect.encoder.model import M3Model, load_model
from m3connect.encoder.pack import Pack
from m3connect.encoder.precision import Precision, choose_precision, convert
from m3connect.encoder.scheduler import GPU, PROCESSOR, Pending, Scheduler
from m3connect.encoder.tokenizer import M3Tokenizer, Tokenized
from m3connect.encoder.transfer import check_device, to_device, to_host
from m3connect.errors import CheckpointError

__all__ = ["M3Encoder"]

logger = logging.getLogger(__name__)


_CHARACTERS_AT_ONCE = 1 << 19
"""Tokenized before they are computed: enough to find texts of equal length, and few enough that a GPU soon starts."""

_MOST_CHARACTERS = 8
"""A token rarely has more, so a text is counted as the tokens it may keep."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Texts that were tokenized."""

    token_ids: list[IntArray]
    """Longest first."""
    order: IntArray
    """[n] where each of these stood."""
    truncated: IntArray
    """[n] in the order of the texts, as what `complete` returns."""

    def complete(self, batch: M3Embeddings) -> M3Embeddings:
        return replace(batch.take(np.argsort(self.order)), truncated=self.truncated)


class M3Encoder:
    """An M3 model that encodes texts on a processor or a GPU; safe to use from several threads.

    Made by `from_pretrained`.

    Example:
        >>> encoder = M3Encoder.from_pretrained("m3-mini")
        >>> batch = encoder.encode(["Bees make honey.", "蜜蜂酿蜜。"], multi_vector=True)
        >>> batch.dense.shape == (2, encoder.dim), len(batch.sparse), len(batch.multi_vector)
        (True, 2, 2)
    """

    def __init__(
        self,
        model: M3Model,
        tokenizer: M3Tokenizer,
        *,
        max_length: int,
        name: str,
        fingerprint: str,
        mcls: int | None = None,
        precision: Precision = "float32",
        cuda_graphs: bool = False,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._unweighted = to_device(tokenizer.unweighted, self.device)
        self._on_gpu = self.device.type == "cuda"
        self._hidden_states = with_graphs(model) if cuda_graphs else model
        self._scheduler = Scheduler(self._encode_pack, GPU if self._on_gpu else PROCESSOR)
        self.max_length = max_length
        """The most tokens of a text that are read, `<s>` and `</s>` included."""
        self.name = name
        """What `from_pretrained` was asked for."""
        self.fingerprint: str | None = fingerprint
        """Made from the weights and the tokenizer, so that a copy of the model has the same one, wherever it lies."""
        self.mcls = mcls
        """The dense vector is the mean of a `<s>` before every so many tokens; None means of the first alone."""
        self.precision: Precision = precision
        """What the layers compute in; results are float32 in any case."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        mcls: int | None = None,
        precision: Precision | None = None,
        device: str | torch.device = "cpu",
        cuda_graphs: bool = False,
    ) -> M3Encoder:
        """Load a model.

        Args:
            name: a folder in the layout of BAAI/bge-m3 or of a FlagEmbedding fine-tune, `"m3-mini"` (bundled, for
                demonstrations), or a name on the hub. Only a hub's name can cause a download.
            revision: a branch, tag or commit of the hub.
            local_files_only: stay offline; use what an earlier download left.
            mcls: for long texts, 256 in the paper (appendix B.2): put a `<s>` before every so many tokens, and average
                their states as the dense vector. Other views leave these `<s>` out, but their tokens see them. A text
                that is no longer than this is encoded as without it.
            precision: what the layers compute in: `"float32"`, or `"bfloat16"` or `"int8"` for less time and memory
                and slightly other numbers (cosines of about 0.9999 and 0.998; `m3connect compare-precision` measures
                them on your texts). The fingerprint is the same for all, so one may ask in int8 what another wrote in
                float32. What a processor lacks instructions for works too, but saves no time, and the log says so.
                None means float32 on a processor, and bfloat16 on a GPU that multiplies in it; none has int8.
            device: what computes: `"cpu"`, or a GPU of CUDA: `"cuda"`, or `"cuda:1"` for one of several.
            cuda_graphs: compute short questions on a GPU by CUDA graphs, in bfloat16 and with PyTorch 2.13 or newer:
                the processor launches all of a model's kernels at once. Nobody in the process may wait for the whole
                GPU (`torch.cuda.synchronize`) while the first questions are computed. Where there are none, the log
                says so.

        Raises:
            ValueError: `mcls` is no whole number of at least 1, there is no such precision or device, or CUDA graphs
                are asked for on a processor.
            CheckpointError: a file, a head or a tensor is missing or has the wrong shape.
        """
        if mcls is not None and (not isinstance(mcls, int) or isinstance(mcls, bool) or mcls < 1):
            raise ValueError(f"mcls must be a whole number of at least 1, as 256 in the paper, but is {mcls!r}")
        chosen_device = check_device(device)
        if cuda_graphs and chosen_device.type != "cuda":
            raise ValueError(f"cuda_graphs=True needs a GPU, but device is {str(chosen_device)!r}: leave it out")
        chosen = choose_precision(precision, chosen_device)
        folder = find_folder(name, revision=revision, local_files_only=local_files_only)
        config, samples = read_config(folder), Samples()

        def prepare(name: str, part: nn.Module) -> nn.Module:
            samples.add(name, part)
            return convert(part, chosen, chosen_device)

        heads = read_heads(folder, config.hidden_size)
        model = load_model(config, read_weights(folder), heads, prepare=prepare)
        tokenizer = M3Tokenizer(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, but the model only {config.vocab_size}"
            )
        fingerprint = fingerprint_of(config, samples, tokenizer)
        return cls(
            model,
            tokenizer,
            max_length=config.max_length,
            name=str(name),
            fingerprint=fingerprint if mcls is None else f"{fingerprint}-mcls{mcls}",
            mcls=mcls,
            precision=chosen,
            cuda_graphs=cuda_graphs,
        )

    def __repr__(self) -> str:
        return f"M3Encoder({self.name!r}, dim={self.dim}, fingerprint={self.fingerprint!r})"

    @property
    def device(self) -> torch.device:
        """What computes."""
        return self._model.word_embeddings.weight.device

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors."""
        return self._model.word_embeddings.embedding_dim

    def encode(
        self,
        texts: Sequence[str],
        *,
        multi_vector: bool = False,
        max_length: int | None = None,
        progress: bool = False,
    ) -> M3Embeddings:
        """Encode texts, row i being text i; a text that comes several times is computed once.

        Args:
            texts: any strings; an empty one gets a dense vector, an empty sparse row and one token vector (`</s>`).
            multi_vector: return token vectors too: t - 1 rows for a text of t tokens, `<s>` being left out.
            max_length: read at most this many tokens of a text, 2 to `self.max_length`; None means all it can.
            progress: show a progress bar.

        Returns:
            Dense, sparse and, where asked for, multi-vector views. `truncated` counts the tokens that were cut away.

        Raises:
            ValueError: `texts` is one string, or holds something else than strings.
        """
        limit = self._check_length(max_length)
        texts = _check_texts(texts)
        places: dict[str, int] = {}
        rows = np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)
        with tqdm(total=len(places), unit="text", disable=not progress) as bar:
            batch = self._compute(list(places), limit, multi_vector, bar.update).take(rows)
        _report_truncation(batch.truncated, limit)
        return replace(batch, fingerprint=self.fingerprint)

    def decode(self, token_ids: Iterable[int]) -> list[str]:
        """Return the readable piece of each token id, for instance of a sparse row.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return self._tokenizer.pieces(token_ids)

    def token_spans(self, text: str) -> IntArray:
        """Return [t, 2] where each token of a text begins and ends in it, for `m3connect.chunking.chunk`.

        Raises:
            ValueError: the text is no string, or holds half of a surrogate pair.
        """
        _check_texts([text])
        return self._tokenizer.spans(text)

    def _tokenize(self, texts: list[str], limit: int) -> Tokenized:
        if self.mcls is None:
            return self._tokenizer.tokenize(texts, limit)
        tokenized = self._tokenizer.tokenize(texts, text_limit(limit, self.mcls))
        return replace(tokenized, token_ids=[insert_cls(ids, self.mcls) for ids in tokenized.token_ids])

    def _compute(
        self, texts: list[str], limit: int, multi_vector: bool, on_done: Callable[[int], object]
    ) -> M3Embeddings:
        """Compute texts; of many, the next are tokenized while those before are computed."""
        if not texts:
            return M3Embeddings(np.zeros((0, self.dim), np.float32), SparseRows.empty(0), () if multi_vector else None)
        first, *others = _parts(texts, limit)
        if others:
            return M3Embeddings.concatenate(list(self._in_turns([first, *others], limit, multi_vector, on_done)))
        part = self._prepare(first, limit)
        return part.complete(self._scheduler.run(part.token_ids, multi_vector=multi_vector, on_done=on_done))

    def _in_turns(
        self, parts: list[list[str]], limit: int, multi_vector: bool, on_done: Callable[[int], object]
    ) -> Iterator[M3Embeddings]:
        """Compute parts, of which the next is tokenized while the one before is computed.

        Where others wait too, a call so long gets two turns to each of theirs.
        """
        ahead: deque[tuple[_Part, Pending]] = deque()
        try:
            for texts in parts:
                part = self._prepare(texts, limit)
                ahead.append((part, self._scheduler.submit(part.token_ids, multi_vector=multi_vector)))
                if len(ahead) > 1:
                    part, pending = ahead.popleft()
                    yield part.complete(pending.result(on_done))
            part, pending = ahead.popleft()
            yield part.complete(pending.result(on_done))
        finally:
            for _, pending in ahead:
                pending.cancel()

    def _prepare(self, texts: list[str], limit: int) -> _Part:
        tokenized = self._tokenize(texts, limit)
        order = np.argsort([-len(ids) for ids in tokenized.token_ids], kind="stable")
        return _Part([tokenized.token_ids[i] for i in order], order, tokenized.truncated)

    def _encode_pack(self, ids: Sequence[IntArray], multi_vector: bool) -> M3Embeddings:
        pack = Pack.of(ids, self.device)
        with torch.inference_mode():
            hidden = self._hidden_states(pack)
            wanted = [self._dense(hidden, pack)]
            if multi_vector:
                wanted.append(self._model.token_vectors(hidden))
            sparse, (dense, *vectors) = self._sparse_and(wanted, self._model.token_weights(hidden), pack)
        return M3Embeddings(
            dense=dense.copy(),
            sparse=sparse,
            multi_vector=_split(vectors[0], pack, self._leading(pack)) if multi_vector else None,
        )

    def _sparse_and(
        self, wanted: list[Tensor], weights: Tensor, pack: Pack
    ) -> tuple[SparseRows, list[npt.NDArray[Any]]]:
        """Return the sparse rows, and other tensors as arrays; what lies on a GPU comes from it in one go."""
        if not self._on_gpu:
            token_ids = pack.token_ids.numpy()
            return lexical_rows(token_ids, weights.numpy(), pack.lengths, self._tokenizer.unweighted), to_host(wanted)
        vocabulary = self._model.word_embeddings.num_embeddings
        largest = largest_weights(pack, weights, self._unweighted, vocabulary)
        places, values, *arrays = to_host([*largest, *wanted])
        return rows_at(places, values, len(pack.lengths), vocabulary), arrays

    def _dense(self, hidden: Tensor, pack: Pack) -> Tensor:
        if self.mcls is None:
            return self._model.dense(hidden, pack)
        return normalize(mean_cls(hidden, pack.lengths, self.mcls), dim=-1)

    def _leading(self, pack: Pack) -> npt.NDArray[np.bool_]:
        """[T] where the `<s>` stand that are no token of a text."""
        leading: npt.NDArray[np.bool_] = is_cls(pack.lengths, self.mcls or self.max_length).numpy()
        return leading

    def _check_length(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        if not 2 <= max_length <= self.max_length:
            raise ValueError(f"max_length must be from 2 to {self.max_length}, but is {max_length}")
        return max_length


def _parts(texts: Iterable[str], limit: int) -> list[list[str]]:
    """Cut texts into parts of about `_CHARACTERS_AT_ONCE`, not counting those that are cut away for sure."""
    parts: list[list[str]] = [[]]
    characters = 0
    for text in texts:
        if characters >= _CHARACTERS_AT_ONCE:
            parts.append([])
            characters = 0
        parts[-1].append(text)
        characters += min(len(text), limit * _MOST_CHARACTERS)
    return parts


def _check_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"encode takes a list of strings, but got {texts!r:.80}: wrap a single text in a list")
    listed = list(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise ValueError(f"text {i} must be a string, but is {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            at = error.start
            raise ValueError(f"text {i} holds half of a surrogate pair at character {at}: clean it first") from error
    return listed


def _report_truncation(truncated: IntArray, limit: int) -> None:
    cut = int((truncated > 0).sum())
    if cut:
        logger.warning("%d texts are longer than %d tokens: %d tokens were cut away", cut, limit, int(truncated.sum()))


def _split(vectors: FloatArray, pack: Pack, leading: npt.NDArray[np.bool_]) -> tuple[FloatArray, ...]:
    """Cut token vectors into one array a text, without `<s>`; copies, so that no row keeps the whole pack alive."""
    stops = accumulate(pack.lengths)
    spans = [slice(stop - length, stop) for stop, length in zip(stops, pack.lengths, strict=True)]
    return tuple(vectors[span][~leading[span]] for span in spans)
