"""What an operator may set, by arguments or environment variables ``COURSE_SERVE_…``; a client can set none of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Limits and places of one service.

    Every setting can come from the environment: ``COURSE_SERVE_QUEUE_SIZE=8``; lists are JSON there:
    ``COURSE_SERVE_CORS_ORIGINS='["https://example.org"]'``.

    Example:
        >>> Settings(queue_size=8).queue_size
        8
    """

    model_config = SettingsConfigDict(env_prefix="COURSE_SERVE_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; the default is reachable from this machine only.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path | None = Field(None, description="A folder of more models: safetensors files with their cards.")
    models: tuple[str, ...] | None = Field(None, description="Load only these models; all if not given.")
    threads: int | None = Field(None, ge=1, le=256, description="Threads of the network; torch's own choice if None.")

    max_n: int = Field(36, ge=1, le=1000, description="Pictures a request may ask for.")
    max_steps: int = Field(100, ge=1, le=1000, description="Steps a request may ask for.")
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

    allowed_hosts: tuple[str, ...] = Field((), description="Host names a request may use; any if empty and not local.")
    cors_origins: tuple[str, ...] = Field((), description="Other sites whose pages may call the service; none.")
