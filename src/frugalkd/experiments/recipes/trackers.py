"""Who is told of runs: ``trackers`` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import GetJsonSchemaHandler, create_model, model_serializer, model_validator
from pydantic_core import CoreSchema

from frugalkd.experiments.tracking import TRACKERS, Tracker
from frugalkd.runtime.sections import Strict


class _Trackers(Strict):
    """Who is told of runs, beside the run folder: a name, a list of names, or a section each."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, said: Any) -> Any:
        if isinstance(said, str):
            said = [said]
        if isinstance(said, list) and all(isinstance(name, str) for name in said):
            return {name: {} for name in said}
        if isinstance(said, Mapping):  # a name with nothing below it is meant, too
            return {name: {} if below is None else below for name, below in said.items()}
        return said

    @model_serializer(mode="wrap")
    def _chosen_only(self, plain: Any) -> dict[str, Any]:
        return {name: below for name, below in plain(self).items() if below is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        name = {"enum": list(TRACKERS)}
        return {"anyOf": [handler(schema), name, {"type": "array", "items": name}]}

    @property
    def chosen(self) -> dict[str, Tracker]:
        """By name."""
        said = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: tracker for name, tracker in said.items() if tracker is not None}


if TYPE_CHECKING:
    Trackers = _Trackers
else:
    _OFF: dict[str, Any] = {name: (made | None, None) for name, made in TRACKERS.items()}
    Trackers = create_model("Trackers", __base__=_Trackers, __doc__=_Trackers.__doc__, **_OFF)
