"""Which model a component uses: the settings that embeddings, sparse embeddings and the reranker have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from llama_index_m3connect.sharing import Sharing, share, share_named
from m3connect.embeddings import M3Embeddings
from m3connect.store import Encoder

__all__ = ["ModelSettings", "Source", "source_of"]

_UNKNOWN = "unknown"


class ModelSettings(BaseModel):
    """Fields that name a model, and its lazy use: nothing is loaded before the first text.

    All are pydantic fields, since `IngestionPipeline` tells cached results apart by them alone. A component made by
    name travels to other processes as that name and loads the model there; one made with `encoder=` takes it along.
    """

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",), arbitrary_types_allowed=True, extra="forbid")

    model_name: str = Field(default=_UNKNOWN, description='A folder, a name on the hub, or "m3-mini" (bundled).')
    revision: str | None = Field(default=None, description="A branch, tag or commit of the hub.")
    local_files_only: bool = Field(default=False, description="Never download.")
    max_length: int | None = Field(default=None, description="Read at most this many tokens of a text.")
    fingerprint: str | None = Field(default=None, description="Refuse a model with another fingerprint.")
    encoder: Any = Field(default=None, exclude=True, description="An encoder, or a component of ours that has one.")

    _found: Sharing | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.encoder is None:
            if self.model_name == _UNKNOWN:
                raise ValueError(
                    'give model_name= (a folder, a name on the hub, or "m3-mini") or encoder= (an encoder object); an '
                    "encoder object that cannot be pickled does not travel to other processes, but a model_name does"
                )
            return self
        if isinstance(self.encoder, ModelSettings):
            self._take_over(self.encoder)
            return self
        if not isinstance(self.encoder, Encoder):
            raise ValueError(
                f"encoder must have dim, fingerprint and encode, as M3Encoder has, but is {self.encoder!r}"
            )
        fields = self.__dict__  # assigning would validate again
        name = getattr(self.encoder, "name", _UNKNOWN)
        if self.model_name not in (_UNKNOWN, name):
            raise ValueError(
                f"give model_name= or encoder=, not both: they are {self.model_name!r} and {self.encoder!r}"
            )
        fields["model_name"] = name
        if self.fingerprint is None:
            fields["fingerprint"] = self.encoder.fingerprint
        return self

    def _take_over(self, other: ModelSettings) -> None:
        """Use the model of another component, by name where it was made by name, and its settings where none is given.

        Raises:
            ValueError: a model was named too.
        """
        if self.model_name not in (_UNKNOWN, other.model_name):
            raise ValueError(
                f"give model_name= or encoder=, not both: the encoder is {other.model_name}, not {self.model_name}"
            )
        for name in ModelSettings.model_fields:
            if name not in self.model_fields_set or name == "encoder":
                self.__dict__[name] = getattr(other, name)

    def __getstate__(self) -> dict[Any, Any]:
        """Refuse to travel without the encoder, which LlamaIndex would drop, here too, with a warning."""
        encoder = self.encoder
        state = super().__getstate__()
        if "encoder" not in state["__dict__"]:
            self.__dict__["encoder"] = encoder
            raise TypeError(f"{type(encoder).__name__} cannot be pickled: make the component with model_name=")
        return state

    @property
    def sharing(self) -> Sharing:
        """The encoder, shared with all who use the same one; loads nothing yet."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def encode_texts(self, texts: Sequence[str], *, multi_vector: bool = False) -> M3Embeddings:
        """Encode texts, those that somebody asked for shortly before at no cost.

        Raises:
            ValueError: the model is not the one with `fingerprint`.
        """
        return self._checked(self.sharing.encode(texts, multi_vector=multi_vector, max_length=self.max_length))

    async def aencode_texts(self, texts: Sequence[str], *, multi_vector: bool = False) -> M3Embeddings:
        """Do as `encode_texts`, off the event loop."""
        return self._checked(await self.sharing.aencode(texts, multi_vector=multi_vector, max_length=self.max_length))

    def _find(self) -> Sharing:
        if self.encoder is not None:
            return share(self.encoder)
        return share_named(self.model_name, revision=self.revision, local_files_only=self.local_files_only)

    def _checked(self, batch: M3Embeddings) -> M3Embeddings:
        if self.fingerprint is not None and batch.fingerprint is not None and batch.fingerprint != self.fingerprint:
            raise ValueError(
                f"{self.model_name} makes embeddings {batch.fingerprint}, but fingerprint= asks for {self.fingerprint}"
                ": load the model that was used before, or leave fingerprint= out and index again"
            )
        return batch


class Source(ModelSettings):
    """A model alone, for what needs nothing else of it."""


def source_of(encoder: object) -> ModelSettings:
    """Return the settings of a component of ours, or wrap an encoder.

    Raises:
        ValueError: it is neither.
    """
    return encoder if isinstance(encoder, ModelSettings) else Source(encoder=encoder)
