"""What an operator may set, by arguments or environment variables ``COURSE_SERVE_…``; a client can set none of it."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

__all__ = ["Settings"]

PREFIX = "COURSE_SERVE_"


def _listed(value: Any) -> Any:
    """``"a, b"`` → ``["a", "b"]``; a list in JSON is read as one."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError("names with commas between them, or a list in JSON") from error
    return [name.strip() for name in value.split(",") if name.strip()]


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class _Environment(EnvSettingsSource):
    """The variables as they are, lists too; one that is misspelt is refused, not overlooked."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """Leave a list to :func:`_listed`."""
        return value

    def __call__(self) -> dict[str, Any]:
        known = {PREFIX + name.upper() for name in self.settings_cls.model_fields}
        for name in sorted(os.environ):
            if name.upper().startswith(PREFIX) and name.upper() not in known:
                close = difflib.get_close_matches(name.upper(), sorted(known), 1)
                raise ValueError(
                    f"expected a setting that there is, got {name}" + (f": is {close[0]} meant?" if close else "")
                )
        return super().__call__()


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
}
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "tuple": "names",
    "path": "a folder",
}


def _explained(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words."""
    name, kind, value = str(error["loc"][0]), error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"expected a setting that there is, got {name}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        expected = f"{words} {error['ctx'][key]:g}"
    elif kind == "value_error":
        expected = str(error["ctx"]["error"])
    else:
        expected = _TYPES.get(kind.split("_")[0], "another value")
    return f"{name}: expected {expected}, got {value!r} ({PREFIX}{name.upper()})"


class Settings(BaseSettings):
    """Limits and places of one service.

    Every setting can come from the environment: ``COURSE_SERVE_QUEUE_SIZE=8``; names of a list have commas between them
    there: ``COURSE_SERVE_MODELS=digits-ddpm,digits-energy``.

    Raises:
        ValueError: For a value out of its limits, and for a variable ``COURSE_SERVE_…`` that is no setting.

    Example:
        >>> Settings(queue_size=8).queue_size
        8
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; the default is reachable from this machine only.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path | None = Field(None, description="A folder of more models: safetensors files with their cards.")
    models: Names | None = Field(None, description="Load only these models; all if not given.")
    threads: int | None = Field(None, ge=1, le=256, description="Threads of the network; torch's own choice if None.")

    max_n: int = Field(36, ge=1, le=1000, description="Pictures a request may ask for.")
    max_steps: int = Field(
        100, ge=1, le=1000, description="Steps a request may ask for; of Langevin dynamics, the card's at least."
    )
    max_guidance: float = Field(20.0, ge=1, le=1000, description="Guidance scale a request may ask for.")
    max_scale: int = Field(8, ge=1, le=32, description="How many times a request may have each pixel enlarged.")
    max_frames: int = Field(60, ge=2, le=1000, description="Pictures on the way that a stream may send.")

    batch_images: int = Field(16, ge=1, le=4096, description="Pictures at work at a time, and in one evaluation.")
    batch_wait_ms: float = Field(5.0, ge=0, le=1000, description="How long an evaluation waits for others to join it.")
    queue_size: int = Field(64, ge=0, le=100_000, description="Requests that may wait; more are answered with 429.")
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, description="Time that work under way gets when the service stops."
    )

    max_json_bytes: int = Field(16_384, ge=256, description="Size of a JSON body.")
    max_picture_bytes: int = Field(1_048_576, ge=256, description="Size of an uploaded picture, in bytes.")
    max_picture_pixels: int = Field(4_194_304, ge=1, le=2**26, description="Size of an uploaded picture, in pixels.")
    body_seconds: float = Field(10.0, gt=0, le=600, description="Time that a client has to send a body.")

    allowed_hosts: Names = Field((), description="Host names a request may use; any if empty and not local.")
    cors_origins: Names = Field((), description="Other sites whose pages may call the service; none.")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise ValueError("; ".join(map(_explained, error.errors()))) from None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before the environment; no files."""
        return init_settings, _Environment(settings_cls)
