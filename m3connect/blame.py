"""Encoding that one text cannot stop: where a batch fails, its halves are tried, down to the text to blame."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from m3connect.embeddings import M3Embeddings
from m3connect.store import Encoder

__all__ = ["MOST_IN_A_ROW", "BlamingEncoder"]

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 16
"""So many texts that fail one after the other are no longer blamed themselves: the encoder is."""

_HARMLESS = "text"


class BlamingEncoder:
    """Encodes batches and names the texts that cannot be.

    Args:
        encoder: any.
        multi_vector: whether token vectors are made.
    """

    def __init__(self, encoder: Encoder, *, multi_vector: bool) -> None:
        self._encoder = encoder
        self._multi_vector = multi_vector
        self._in_a_row = 0

    def encode(self, texts: Sequence[str]) -> tuple[M3Embeddings, dict[int, str]]:
        """Encode what can be encoded.

        Returns:
            A row for each text that is not to blame, and reasons by position for those that are.

        Raises:
            Exception: the encoder's own error, where it fails for a harmless text too, or `MOST_IN_A_ROW` times.
        """
        parts, reasons = self._encode(texts)
        return M3Embeddings.concatenate(parts, dim=self._encoder.dim) if len(parts) != 1 else parts[0], reasons

    def _encode(self, texts: Sequence[str]) -> tuple[list[M3Embeddings], dict[int, str]]:
        try:
            found = self._encoder.encode(texts, multi_vector=self._multi_vector)
        except Exception as error:  # noqa: BLE001  # told as the reason, or raised again
            if len(texts) == 1:
                self._require_a_working_encoder(error)
                return [], {0: f"it cannot be encoded: {error!r}"}
            logger.info("a batch of %d texts could not be encoded, so its halves are tried: %r", len(texts), error)
        else:
            self._in_a_row = 0
            return [found], {}
        middle = len(texts) // 2
        first, early = self._encode(texts[:middle])
        second, late = self._encode(texts[middle:])
        return first + second, early | {middle + i: reason for i, reason in late.items()}

    def _require_a_working_encoder(self, error: Exception) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            error.add_note(f"{MOST_IN_A_ROW} texts in a row could not be encoded, so the encoder is to blame")
            raise error
        try:
            self._encoder.encode([_HARMLESS], multi_vector=self._multi_vector)
        except Exception:  # noqa: BLE001  # the same trouble, most likely: the first error says what
            error.add_note(f"the encoder fails for {_HARMLESS!r} too, so no document is to blame")
            raise error from None
