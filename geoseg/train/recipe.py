"""Training recipes: YAML in, frozen dataclasses out, nothing unknown let through."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from geoseg.errors import RecipeError
from geoseg.model.segnext import NmfGradient
from geoseg.model.variants import PYRAMIDS, VARIANTS
from geoseg.train.schema import build, check, check_share


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is trained."""

    variant: str = "T"
    """T, S, B or L, or a teacher, lite0 or lite2. Stochastic depth follows from it, see
    `geoseg.model.segnext.VARIANTS`."""
    nmf_gradient: NmfGradient = "full"
    """Gradient through all steps of the factorization, or the last one only."""
    layer_scale: float = 0.01
    """Initial factor on the residual branches; more than the paper's 0.01 starts faster where
    there are no pretrained weights. Unused where there are."""
    mean: tuple[float, float, float] | None = None
    """Of the pixels, per channel, 0-255; None = that of the pretrained weights, else ImageNet's."""
    std: tuple[float, float, float] | None = None
    """As `mean`."""
    scale: float | None = None
    """Factor by which images are enlarged before the model sees them; None = that of the
    pretrained weights, else 1. The stages' scales come on top."""

    def __post_init__(self) -> None:
        if self.variant not in (known := (*VARIANTS, *PYRAMIDS)):
            raise RecipeError(
                f"model.variant is {self.variant!r}; choose one of {', '.join(known)}"
            )
        check("model.layer_scale", self.layer_scale, self.layer_scale > 0, "above 0")
        check("model.std", self.std, self.std is None or min(self.std) > 0, "above 0")
        scale = self.scale
        check("model.scale", scale, scale is None or 1 / 16 <= scale <= 16, "from 1/16 to 16")


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """One group of images that share their kind of labels."""

    complete: tuple[int, ...] | None = None
    """Class ids of which every object is labelled; None = all. On background pixels of the
    group the other classes are not penalised."""
    weight: float = 1.0
    """How often its images are drawn, relative to the other groups."""
    scale: float = 1.0
    """Factor on the stages' scales, for imagery that is finer or coarser than the others'."""
    shuffle_channels: bool = False
    """False-colour imagery: draw a new channel order for every crop."""

    def __post_init__(self) -> None:
        check("data.groups: weight", self.weight, self.weight >= 0, "0 or more")
        check("data.groups: scale", self.scale, 1 / 16 <= self.scale <= 16, "from 1/16 to 16")


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where the images are and how crops are drawn from them."""

    root: str
    """Folder with a `split.csv` (group,name,split,image,mask) and, unless the classes are iSAID's,
    a `classes.csv` (id,name,color)."""
    groups: dict[str, GroupOptions] = field(default_factory=dict)
    """Per group of `split.csv`; a group not named here is complete."""
    object_share: float = 0.5
    """Share of the crops that are centred near a pixel of a drawn class."""
    class_weights: dict[str, float] = field(default_factory=dict)
    """By class name: how often crops are centred on it, relative to what its pixels suggest; 1
    for a class not named here."""
    rendered_share: float = 0.0
    """Share of the crops that come from rendered scenes; these have iSAID's classes."""
    paste_classes: tuple[str, ...] = ()
    """Names of classes of which objects are cut out and put down in other crops."""
    paste_share: float = 0.0
    """Share of the crops that get some."""
    max_class_share: float = 1.0
    """A crop of which one class covers more is drawn again, at most ten times."""
    workers: int = 1
    """Loader processes."""

    def __post_init__(self) -> None:
        for name in ("object_share", "rendered_share", "paste_share", "max_class_share"):
            check_share(f"data.{name}", getattr(self, name))
        for name, weight in self.class_weights.items():
            check(f"data.class_weights.{name}", weight, weight >= 0, "0 or more")
        check("data.workers", self.workers, self.workers >= 0, "0 or more")


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How a crop is varied."""

    rotate: Literal["none", "right", "any"] = "none"
    """No rotation, multiples of 90°, or (half of the time) any angle."""
    flip: bool = True
    """Mirror half of the crops."""
    scale_draw: Literal["log", "uniform"] = "log"
    """Whether the stages' scales are drawn with uniform logarithms, or uniformly."""
    photometric: float = 1.0
    """Strength of brightness, contrast, saturation and hue changes; 1 as in the paper."""
    grey: float = 0.0
    """Share of the crops turned to grey."""
    blur: float = 0.0
    """Share of the crops blurred, as another sensor would see them."""

    def __post_init__(self) -> None:
        for name in ("grey", "blur"):
            check_share(f"augment.{name}", getattr(self, name))
        strength = self.photometric
        check("augment.photometric", strength, 0 <= strength <= 2, "from 0 to 2")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with one crop size."""

    steps: int
    batch: int
    """Crops a step, over all devices together."""
    crop: int
    """Side of the crops, px; a multiple of 32."""
    scale: tuple[float, float]
    """Crop pixels per image pixel: the least and the most."""

    def __post_init__(self) -> None:
        low, high = self.scale
        check("stages.steps", self.steps, self.steps >= 1, "at least 1")
        check("stages.batch", self.batch, self.batch >= 1, "at least 1")
        check("stages.crop", self.crop, self.crop > 0 and self.crop % 32 == 0, "a multiple of 32")
        check("stages.scale", self.scale, 0 < low <= high, "0 < least <= most")


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
    """Gradients of a larger norm are shortened to it."""
    ema_decay: float | None = None
    """Validate and save the moving average of the weights, with this decay a step."""

    def __post_init__(self) -> None:
        check("optimizer.lr", self.lr, self.lr > 0, "above 0")
        check("optimizer.head_lr_factor", self.head_lr_factor, self.head_lr_factor > 0, "above 0")
        check("optimizer.betas", self.betas, all(0 <= b < 1 for b in self.betas), "below 1")
        decay, clip, ema = self.weight_decay, self.clip_norm, self.ema_decay
        check("optimizer.weight_decay", decay, decay >= 0, "0 or more")
        check("optimizer.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "0 or more")
        check("optimizer.power", self.power, self.power >= 0, "0 or more")
        check("optimizer.clip_norm", clip, clip is None or clip > 0, "above 0")
        check("optimizer.ema_decay", ema, ema is None or 0 < ema < 1, "between 0 and 1")
        check_share("optimizer.warmup_start", self.warmup_start)


@dataclass(frozen=True, slots=True)
class LossOptions:
    """What is minimised."""

    hard_share: float = 1.0
    """Share of the labelled pixels of a batch, hardest first, that count (online hard example
    mining); 1 = the plain mean of the cross-entropy."""

    projection: float = 0.0
    """Weight of the loss by which objects reach to all sides of their boxes, where the data has a
    `boxes.csv` (`geoseg prepare boxes`)."""
    pairwise: float = 0.0
    """Weight of the loss by which pixels without a label go with neighbors of their color."""
    stride: int = 1
    """Every n-th pixel of every n-th row counts: outlines are smooth at this scale, and the loss
    is a third of a step on a CPU."""

    def __post_init__(self) -> None:
        share = self.hard_share
        for name in ("projection", "pairwise"):
            check(f"loss.{name}", getattr(self, name), getattr(self, name) >= 0, "0 or more")
        check("loss.stride", self.stride, self.stride in (1, 2, 4, 8), "1, 2, 4 or 8")
        check("loss.hard_share", share, 0 < share <= 1, "a share above 0 and up to 1")


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """A network whose opinion on every crop the trained one learns, besides the labels.

    After Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), and Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent" (CVPR 2022): both see the
    same crop.
    """

    weights: str
    """A geoseg checkpoint, the name of public weights or `default`; of the data's classes."""
    weight: float = 1.0
    """Factor on its term of the loss."""
    temperature: float = 2.0
    """Divides both networks' logits; above 1, unlikely classes count more."""

    def __post_init__(self) -> None:
        check("teacher.weight", self.weight, self.weight > 0, "above 0")
        check("teacher.temperature", self.temperature, self.temperature > 0, "above 0")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run depends on, besides the data."""

    data: DataOptions
    stages: tuple[Stage, ...]
    model: ModelOptions = ModelOptions()
    augment: AugmentOptions = AugmentOptions()
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    teacher: TeacherOptions | None = None
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's names; auto = bf16-mixed where the device computes in bfloat16 itself, else
    32-true. A run's own recipe says which it was."""
    val_every: int = 1000
    """Steps between validations; a checkpoint is written at each, and after the last step."""
    log_every: int = 10
    """Steps between lines of the log."""
    provenance: str = ""
    """Free text for the checkpoint: data and who made it."""
    license: str = ""
    """Terms of the trained weights."""
    gsd_range: tuple[float, float] | None = None
    """Ground sampling distances that the crops cover, metres a pixel."""

    def __post_init__(self) -> None:
        check("stages", self.stages, len(self.stages) > 0, "one stage or more")
        for name in ("val_every", "log_every"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        if (warmup := self.optimizer.warmup_steps) >= self.steps:
            raise RecipeError(
                f"optimizer.warmup_steps is {warmup}, but the stages have {self.steps} steps in all"
            )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def group(self, name: str) -> GroupOptions:
        """What is said of a group, or the defaults."""
        return self.data.groups.get(name, GroupOptions())

    def to_yaml(self) -> str:
        """Every value, for the record; `load_recipe` reads it back."""
        plain = json.loads(json.dumps(asdict(self)))  # YAML has no tuples
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def find_recipe(name: str) -> Path:
    """The file `name`, or the recipe of that name that geoseg comes with.

    Raises:
        RecipeError: neither exists.
    """
    shipped = {path.stem: path for path in Path(str(files("geoseg.configs"))).glob("*.yaml")}
    if Path(name).is_file():
        return Path(name)
    if name not in shipped:
        known = ", ".join(sorted(shipped))
        raise RecipeError(f"{name} is no recipe file, nor one that geoseg has: {known}")
    return shipped[name]


def load_recipe(path: str | Path, **changes: Any) -> Recipe:
    """Read and check a recipe, a file or a name as `find_recipe` takes it.

    `changes` replace values by dotted name (``{"data.root": "elsewhere"}``).

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a wrong type or a contradiction;
            the message names the key.
    """
    try:
        content = yaml.safe_load(find_recipe(str(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"recipe {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path} holds {type(content).__name__}; a mapping is needed")
    for name, value in changes.items():
        *parents, last = name.split(".")
        node: Any = content
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{parent} is {node!r}; it must be a mapping")
        node[last] = value
    recipe: Recipe = build(Recipe, content)
    return recipe
