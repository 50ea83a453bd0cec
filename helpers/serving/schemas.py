"""What goes in and out, as pydantic models: the OpenAPI document and the checks are both made of these.

Each model gets request types of its own (:func:`request_types`): what it cannot do is not in its schema, so that the
document says exactly what will be accepted. Unknown fields are refused everywhere, and nothing is converted: ``"3"`` is
not a number.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError
from torch import Tensor

from .catalogue import Kind, ServedModel
from .settings import Settings

__all__ = [
    "MAX_SEED",
    "Energy",
    "Health",
    "Images",
    "Mistake",
    "ModelInfo",
    "Models",
    "Problem",
    "Wanted",
    "request_types",
]

MAX_SEED = 2**53 - 1  # what every JSON reader holds exactly
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1e6
Format = Literal["png", "zip", "json"]


def _whole(value: Any) -> Any:
    """3.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _integer(lowest: int, highest: int) -> Any:
    """The type of an integer in a range; the bounds come first, or they would not be in the schema."""
    return Annotated[int, Field(ge=lowest, le=highest), BeforeValidator(_whole)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, populate_by_name=False)


Classes = int | Mapping[str, float] | None
"""A class number, weights of a mixture by name, or None for all classes in turn."""


@dataclass(frozen=True)
class Wanted:
    """A request in the service's own terms, whatever model it is to.

    Attributes:
        model: By which model.
        n: How many pictures.
        seed: Of the noise.
        steps: Steps of the sampler.
        sampler: Its name.
        guidance: Scale of classifier-free guidance; 1 is none.
        classes: Of the pictures.
        scale: How many times each pixel is enlarged.
        format: How the pictures are sent.
        frames: How many pictures of the way a stream sends.
    """

    model: ServedModel
    n: int
    seed: int
    steps: int
    sampler: str
    scale: int
    guidance: float = 1.0
    classes: Classes = None
    format: Format = "png"
    frames: int = 0

    @classmethod
    def of(cls, body: BaseModel, models: Mapping[str, ServedModel]) -> Wanted:
        """What a checked body asks for; a seed is chosen if it names none."""
        fields = dict(body)
        if fields["seed"] is None:
            fields["seed"] = secrets.randbelow(2**31)
        return cls(**fields | {"model": models[fields["model"]]})

    def labels(self) -> Tensor | None:
        """The class of each picture (n,), or None for a model without classes.

        Of a mixture each picture's class is drawn by its weight, with the seed: so the pictures follow the mixture of
        the classes' distributions. The first ones are the same whatever n is.
        """
        names = self.model.classes
        if not names:
            return None
        if self.classes is None:
            return torch.arange(self.n) % len(names)
        if isinstance(self.classes, int):
            return torch.full((self.n,), self.classes)
        weights = torch.tensor([self.classes.get(name, 0.0) for name in names], dtype=torch.float64)
        shares = weights.cumsum(0) / weights.sum()
        # Not the seed itself: the numbers that choose the class must not be those that make the picture.
        generator = torch.Generator().manual_seed((self.seed * 6364136223846793005 + 1442695040888963407) % 2**63)
        draws = torch.rand(self.n, generator=generator, dtype=torch.float64)
        # A class without weight has an empty share: its end is where the next one begins.
        return torch.searchsorted(shares, draws, right=True).clamp_max(int(weights.nonzero().max()))

    def note(self) -> dict[str, Any]:
        """With what the same pictures can be made again: the body of a request."""
        note: dict[str, Any] = {"model": self.model.name, "n": self.n, "seed": self.seed, "steps": self.steps}
        note["sampler"] = self.sampler
        if self.model.guided:
            note["guidance"] = self.guidance
        if self.model.classes:
            named = isinstance(self.classes, int)
            note["class"] = self.model.classes[self.classes] if named else self.classes
        note["scale"] = self.scale
        return note if self.format == "png" else note | {"format": self.format}


def _class_field(classes: Sequence[str]) -> tuple[Any, Any]:
    """The type of ``class``: a name, a number, or weights of names."""
    expected = (
        f"a class out of {', '.join(classes)}, its number from 0 to {len(classes) - 1}, "
        f"or weights of classes from {MIN_WEIGHT:g} to {MAX_WEIGHT:.0f}"
    )
    example = {classes[0]: 2, classes[-1]: 1}

    def parse(value: Any) -> Classes:
        value = _whole(value)
        if value is None:
            return None
        if isinstance(value, str) and value in classes:
            return classes.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
            return value
        if isinstance(value, dict) and value and all(map(is_weight, value.items())):
            return value
        raise PydanticCustomError("class", "expected {expected}", {"expected": expected})

    def is_weight(item: tuple[Any, Any]) -> bool:
        name, weight = item
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        return name in classes and number and MIN_WEIGHT <= weight <= MAX_WEIGHT

    weight = {"type": "number", "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT}
    schema = {
        "anyOf": [
            {"type": "string", "enum": list(classes)},
            {"type": "integer", "minimum": 0, "maximum": len(classes) - 1},
            {
                "type": "object",
                "properties": dict.fromkeys(classes, weight),
                "additionalProperties": False,
                "minProperties": 1,
            },
            {"type": "null"},
        ],
        "default": None,
        "description": "One class for all pictures, by name or number; or weights of a mixture, by which the class of "
        "each picture is drawn; or null: all classes in turn.",
        "examples": [classes[0], len(classes) - 1, example],
    }
    return Annotated[Any, PlainValidator(parse), WithJsonSchema(schema)], Field(None, alias="class")


def _fields(model: ServedModel, settings: Settings) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": (Literal[model.name], Field(description=str(model.card.get("summary", model.name)))),
        "n": (_integer(1, settings.max_n), Field(1, description="How many pictures.")),
        "seed": (
            _integer(0, MAX_SEED) | None,
            Field(
                None,
                description="The same seed gives the same pictures. Without one, the service chooses one and tells it.",
            ),
        ),
        "steps": (_integer(1, model.max_steps), Field(model.default_steps, description="Steps of the sampler.")),
        "sampler": (Literal[model.samplers], Field(model.samplers[0], description="How noise becomes pictures.")),
        "scale": (
            _integer(1, settings.max_scale),
            Field(1, description="How many times each pixel is enlarged, each way."),
        ),
    }
    if model.guided:
        fields["guidance"] = (
            float,
            Field(1.0, ge=0, le=settings.max_guidance, description="Scale of classifier-free guidance; 1 is none."),
        )
    if model.classes:
        fields["classes"] = _class_field(model.classes)
    return fields


def request_types(model: ServedModel, settings: Settings) -> tuple[type[BaseModel], type[BaseModel]]:
    """The types of requests to one model: for pictures, and for a stream."""
    name = "".join(part.capitalize() for part in re.split(r"[-._]", model.name))
    shared = _fields(model, settings)
    of_format = Field("png", description="One PNG of all pictures, a zip of PNGs, or JSON with PNGs in base64.")
    of_frames = Field(
        min(12, settings.max_frames), description="States that are sent at most, the noise at the start among them."
    )
    frames = _integer(2, settings.max_frames)
    return (
        create_model(f"{name}Images", __base__=_Strict, **shared, format=(Format, of_format)),
        create_model(f"{name}Stream", __base__=_Strict, **shared, frames=(frames, of_frames)),
    )


# ── answers ───────────────────────────────────────────────────────────────


class Range(BaseModel):
    """What may be asked for, and what is taken where nothing is asked for."""

    default: int | float
    minimum: int | float
    maximum: int | float


class ModelInfo(BaseModel):
    """A model, and what can be asked of it."""

    name: str
    kind: Kind
    summary: str
    shape: list[int] = Field(description="Channels, height and width of its pictures.")
    classes: list[str] = Field(description="Classes that pictures can be asked of; empty if there are none.")
    samplers: list[str] = Field(description="The default first; empty for a model that draws nothing.")
    n: Range | None
    steps: Range | None
    guidance: Range | None = Field(description="None for a model that knows no guidance.")
    scale: Range | None
    frames: Range | None
    card: dict[str, Any] = Field(description="The model card: architecture, data, training, metrics, limits, hash.")

    @classmethod
    def of(cls, model: ServedModel, settings: Settings) -> ModelInfo:
        """A model of the catalogue."""

        def range_(default: float, minimum: float, maximum: float, known: bool = model.draws) -> Range | None:
            return Range(default=default, minimum=minimum, maximum=maximum) if known else None

        return cls(
            name=model.name,
            kind=model.kind,
            summary=str(model.card.get("summary", "")),
            shape=list(model.shape),
            classes=list(model.classes),
            samplers=list(model.samplers),
            n=range_(1, 1, settings.max_n),
            steps=range_(model.default_steps, 1, model.max_steps),
            guidance=range_(1, 0, settings.max_guidance, model.guided),
            scale=range_(1, 1, settings.max_scale),
            frames=range_(min(12, settings.max_frames), 2, settings.max_frames),
            card=dict(model.card),
        )


class Models(BaseModel):
    """All models."""

    models: list[ModelInfo]


class Images(BaseModel):
    """Pictures, and with what they can be made again."""

    model: str
    seed: int
    steps: int
    sampler: str
    guidance: float | None
    classes: list[str] | None = Field(description="The class of each picture.")
    shape: list[int]
    images: list[str] = Field(description="PNG files in base64.")


class Energy(BaseModel):
    """The energy of a picture; low is likely."""

    model: str
    energy: float
    percentile: float | None = Field(description="Per cent of the test set with a lower energy, where the card knows.")


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok", "ready", "draining", "stopped"]
    running: int = Field(description="Requests being worked on.")
    waiting: int = Field(description="Requests in the queue.")


class Mistake(BaseModel):
    """One thing that is wrong in a request."""

    field: str = Field(description="Where: the name of a field, of a parameter, of a header, or the body.")
    message: str
    limit: Any = Field(None, description="What is accepted.")
    value: Any = Field(None, description="What came, shortened.")


class Problem(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Mistake] = []
