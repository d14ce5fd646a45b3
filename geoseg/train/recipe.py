"""Training recipes: YAML in, frozen dataclasses out, nothing unknown let through."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from geoseg.classes import ISAID
from geoseg.errors import RecipeError
from geoseg.model.segnext import VARIANTS, NmfGradient


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is trained."""

    variant: str = "T"
    """T, S, B or L."""
    nmf_gradient: NmfGradient = "full"
    """Gradient through all steps of the factorization, or the last one only."""
    layer_scale: float = 0.01
    """Initial factor on the residual branches; more than the paper's 0.01 starts faster where
    there are no pretrained weights."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise RecipeError(
                f"model.variant is {self.variant!r}; choose one of {', '.join(VARIANTS)}"
            )


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """One group of images that share their kind of labels."""

    complete: tuple[int, ...] | None = None
    """Class ids of which every object is labelled; None = all. On background pixels of the
    group the other classes are not penalised."""
    weight: float = 1.0
    """How often its images are drawn, relative to the other groups."""
    shuffle_channels: bool = False
    """False-colour imagery: draw a new channel order for every crop."""


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where the images are and how crops are drawn from them."""

    root: str
    """Folder with a `split.csv` (group,name,split,image,mask)."""
    groups: dict[str, GroupOptions] = field(default_factory=dict)
    """Per group of `split.csv`; a group not named here is complete."""
    object_share: float = 0.5
    """Share of the crops that are centred near a pixel of a drawn class."""
    rendered_share: float = 0.0
    """Share of the crops that come from rendered scenes."""
    workers: int = 1
    """Loader processes."""

    def __post_init__(self) -> None:
        for name in ("object_share", "rendered_share"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise RecipeError(f"data.{name} is {share}; give a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How a crop is varied."""

    rotate: Literal["none", "right", "any"] = "none"
    """No rotation, multiples of 90°, or (half of the time) any angle."""
    flip: bool = True
    photometric: float = 1.0
    """Strength of brightness, contrast, saturation and hue changes; 1 as in the paper."""
    grey: float = 0.0
    """Share of the crops turned to grey."""
    blur: float = 0.0
    """Share of the crops blurred and resharpened, as another sensor would see them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with one crop size."""

    steps: int
    batch: int
    crop: int
    """Side of the crops, px; a multiple of 32."""
    scale: tuple[float, float]
    """Crop pixels per image pixel, drawn log-uniformly."""

    def __post_init__(self) -> None:
        if self.crop % 32 or self.crop <= 0:
            raise RecipeError(f"stages.crop is {self.crop}; give a multiple of 32")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise RecipeError(f"stages.scale is {self.scale}; give 0 < low <= high")
        if self.steps < 1 or self.batch < 1:
            raise RecipeError("stages: steps and batch must be at least 1")


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """AdamW with linear warm-up and polynomial decay, as published."""

    lr: float = 6e-5
    head_lr_factor: float = 10.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    """None on the parameters of norms."""
    warmup_steps: int = 1500
    warmup_start: float = 1e-6
    """Factor on the rate at step 0."""
    power: float = 1.0
    clip_norm: float | None = None
    ema_decay: float | None = None


@dataclass(frozen=True, slots=True)
class LossOptions:
    """What is minimised."""

    hard_share: float = 1.0
    """Share of the labelled pixels of a batch, hardest first, that count (online hard example
    mining); 1 = the plain mean of the cross-entropy."""

    stride: int = 1
    """Every n-th pixel of every n-th row counts: outlines are smooth at this scale, and the loss
    is a third of a step on a CPU."""

    def __post_init__(self) -> None:
        if self.stride not in (1, 2, 4, 8):
            raise RecipeError(f"loss.stride is {self.stride}; choose 1, 2, 4 or 8")
        if not 0 < self.hard_share <= 1:
            raise RecipeError(
                f"loss.hard_share is {self.hard_share}; give a share above 0 and up to 1"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run depends on, besides the data."""

    data: DataOptions
    stages: tuple[Stage, ...]
    model: ModelOptions = ModelOptions()
    augment: AugmentOptions = AugmentOptions()
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    val_every: int = 1000
    """Steps between validations; a checkpoint is written at each."""
    log_every: int = 10
    """Steps between lines of the log."""
    provenance: str = ""
    """Free text for the checkpoint: data and who made it."""
    licence: str = ""
    """Terms of the trained weights."""
    gsd_range: tuple[float, float] | None = None
    """Ground sampling distances that the crops cover, metres a pixel."""

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def complete_ids(self, group: str) -> frozenset[int]:
        """Class ids whose objects are all labelled in `group` (background excluded)."""
        options = self.data.groups.get(group, GroupOptions())
        every = frozenset(c.id for c in ISAID if c.id)
        return every if options.complete is None else frozenset(options.complete)


def load_recipe(path: str | Path, **changes: Any) -> Recipe:
    """Read and check a recipe.

    `changes` replace values by dotted name (``{"data.root": "elsewhere"}``).

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a wrong type or a contradiction;
            the message names the key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"recipe {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path} holds {type(content).__name__}; a mapping is needed")
    for name, value in changes.items():
        *parents, last = name.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return build(Recipe, content, "")


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`; `where` is its dotted name for messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return build_dataclass(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where} is {value!r}; choose one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise wrong_type(where, value, "a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise RecipeError(f"{where} has {len(value)} values; it takes {len(arguments)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(
            build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong_type(where, value, "a mapping")
        return {str(k): build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    return build_scalar(kind, value, where)


def build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise wrong_type(where or "the recipe", value, "a mapping")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    if unknown := [key for key in value if key not in hints]:
        raise RecipeError(
            f"unknown key {prefix}{unknown[0]}; known here: {', '.join(sorted(hints))}"
        )
    for item in dataclasses.fields(kind):
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and item.name not in value:
            raise RecipeError(f"{prefix}{item.name} is missing from the recipe")
    return kind(**{key: build(hints[key], v, f"{prefix}{key}") for key, v in value.items()})


def build_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 6e-5 as a string
        try:
            return float(value)
        except ValueError:
            raise wrong_type(where, value, "a number") from None
    if type(value) is kind:
        return value
    raise wrong_type(where, value, {"int": "a whole number"}.get(kind.__name__, kind.__name__))


def wrong_type(where: str, value: Any, wanted: str) -> RecipeError:
    return RecipeError(f"{where} is {value!r} ({type(value).__name__}); it must be {wanted}")
