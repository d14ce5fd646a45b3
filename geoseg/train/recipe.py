"""Training recipes: frozen dataclasses, read from YAML."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from geoseg.errors import RecipeError
from geoseg.model.segnext import NmfGradient
from geoseg.model.variants import PYRAMIDS, VARIANTS
from geoseg.recipes import find_recipe
from geoseg.train.schema import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Rule, build, set_value

FACTOR = Rule("from 1/16 to 16", lambda value: 1 / 16 <= value <= 16)
NAMES = (*VARIANTS, *PYRAMIDS)
VARIANT = Rule(f"one of {', '.join(NAMES)}", lambda value: value in NAMES)
RENAMED = {"licence": "license", "augment.grey": "augment.gray"}
"""Keys in recipes of earlier runs, and what they are called now."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The network."""

    variant: Annotated[str, VARIANT] = "T"
    """T, S, B or L of SegNeXt, or lite0 or lite2 for a teacher. Sets the stochastic depth as
    well."""
    nmf_gradient: NmfGradient = "full"
    """Gradient through all steps of the matrix factorization, or through the last one only,
    which takes less memory and time."""
    layer_scale: Annotated[float, POSITIVE] = 0.01
    """Initial factor on the residual branches. Without pretrained weights, more than the paper's
    0.01 speeds up the start; with them it has no effect."""
    mean: tuple[float, float, float] | None = None
    """Channel means of the pixels, 0-255; null = those of the pretrained weights, else
    ImageNet's."""
    std: Annotated[tuple[float, float, float], Rule("above 0", lambda v: min(v) > 0)] | None = None
    """Channel standard deviations of the pixels, 0-255; null as for `mean`."""
    scale: Annotated[float, FACTOR] | None = None
    """Factor by which images are enlarged before the model sees them; null = that of the
    pretrained weights, else 1. It multiplies the scales of the stages."""


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """A group of images with the same kind of labels."""

    complete: tuple[int, ...] | None = None
    """Ids of the classes of which every object is labeled; null = all. Predictions of other
    classes on background pixels of the group are not penalized."""
    weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """How often the images are drawn, relative to other groups."""
    scale: Annotated[float, FACTOR] = 1.0
    """Factor on the scales of the stages, for imagery that is finer or coarser than that of other
    groups."""
    shuffle_channels: bool = False
    """Draw a new channel order for every crop, for false-color imagery."""


@dataclass(frozen=True, slots=True)
class DataOptions:
    """The images, and how crops are sampled from them."""

    root: str
    """Folder with a `split.csv` (group,name,split,image,mask) and a `classes.csv`
    (id,name,color)."""
    groups: dict[str, GroupOptions] = field(default_factory=dict)
    """Options by group of `split.csv`; other groups have the defaults."""
    object_share: Annotated[float, SHARE] = 0.5
    """Share of the crops that are centered near a pixel of a drawn class; the others lie
    anywhere."""
    class_weights: dict[str, Annotated[float, NOT_NEGATIVE]] = field(default_factory=dict)
    """Sampling weights by class name: how often a crop is centered on the class, relative to the
    fourth root of its pixel count; 1 for other classes. Weights in the loss are
    `loss.class_weights`."""
    rendered_share: Annotated[float, SHARE] = 0.0
    """Share of the crops that come from rendered scenes, which have iSAID's classes."""
    paste_classes: tuple[str, ...] = ()
    """Names of classes whose objects are copied into other crops (copy-paste)."""
    paste_share: Annotated[float, SHARE] = 0.0
    """Share of the crops into which objects are pasted."""
    max_class_share: Annotated[float, SHARE] = 1.0
    """A crop in which one class covers more than this is drawn again, up to ten times."""
    workers: Annotated[int, NOT_NEGATIVE] = 1
    """Processes that load crops; 0 = in the training process."""


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """Random variation of the crops."""

    rotate: Literal["none", "right", "any"] = "none"
    """No rotation, multiples of 90°, or any angle in half of the crops."""
    flip: bool = True
    """Mirror half of the crops."""
    scale_draw: Literal["log", "uniform"] = "log"
    """Distribution of the scale within that of the stage: log-uniform or uniform."""
    photometric: Annotated[float, Rule("from 0 to 2", lambda value: 0 <= value <= 2)] = 1.0
    """Strength of changes of brightness, contrast, saturation and hue; 1 as in the paper."""
    gray: Annotated[float, SHARE] = 0.0
    """Share of the crops that are converted to gray."""
    blur: Annotated[float, SHARE] = 0.0
    """Share of the crops that are blurred, as by a coarser sensor."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training with one crop size."""

    steps: Annotated[int, AT_LEAST_1]
    """Optimizer steps."""
    batch: Annotated[int, AT_LEAST_1]
    """Crops in a batch, over all devices together."""
    crop: Annotated[int, Rule("a multiple of 32", lambda value: value > 0 and value % 32 == 0)]
    """Side of the crops, px."""
    scale: Annotated[
        tuple[float, float], Rule("0 < least <= most", lambda pair: 0 < pair[0] <= pair[1])
    ]
    """Crop pixels per image pixel: the least and the most."""


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """AdamW with linear warm-up and polynomial decay."""

    lr: Annotated[float, POSITIVE] = 6e-5
    """Learning rate of the backbone after the warm-up."""
    head_lr_factor: Annotated[float, POSITIVE] = 10.0
    """Factor on the learning rate of the decoder."""
    betas: Annotated[
        tuple[float, float], Rule("0 or more and below 1", lambda v: all(0 <= b < 1 for b in v))
    ] = (0.9, 0.999)
    """Decay of AdamW's moving averages of the gradient and of its square."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Decoupled weight decay; none on parameters of norms."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 1500
    """Steps of the linear warm-up."""
    warmup_start: Annotated[float, SHARE] = 1e-6
    """Factor on the learning rate at step 0."""
    power: Annotated[float, NOT_NEGATIVE] = 1.0
    """Exponent of the polynomial decay to 0 at the last step; 0 = constant."""
    clip_norm: Annotated[float, POSITIVE] | None = None
    """Norm to which larger gradients are clipped; null = no clipping."""
    ema_decay: Annotated[float, Rule("between 0 and 1", lambda v: 0 < v < 1)] | None = None
    """Decay a step of the moving average of the weights, which is validated and saved; null = no
    averaging."""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The loss: cross-entropy, and terms for boxes."""

    class_weights: dict[str, Annotated[float, NOT_NEGATIVE]] = field(default_factory=dict)
    """Weights of pixels in the cross-entropy by class name of the label, background included; 1
    for other classes. Sampling weights are `data.class_weights`."""
    hard_share: Annotated[
        float, Rule("a share above 0 and up to 1", lambda value: 0 < value <= 1)
    ] = 1.0
    """Share of the labeled pixels of a batch, those with the largest loss, that are averaged
    (online hard example mining)."""
    projection: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the loss of objects that do not touch all sides of their boxes; needs a
    `boxes.csv` (`geoseg prepare boxes`)."""
    pairwise: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the loss of unlabeled pixels that differ in class from neighbors of similar
    color."""
    stride: Annotated[int, Rule("1, 2, 4 or 8", lambda value: value in (1, 2, 4, 8))] = 1
    """Step between the pixels that enter the loss. 2 changes little and is faster: on a CPU the
    loss is a third of a step."""


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """A network whose predictions are learned besides the labels (distillation).

    After Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), and Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent" (CVPR 2022).
    """

    weights: str
    """A geoseg checkpoint, the name of public weights or `default`, with the classes of the
    data."""
    weight: Annotated[float, POSITIVE] = 1.0
    """Weight of its term in the loss."""
    temperature: Annotated[float, POSITIVE] = 2.0
    """Divisor of the logits of both networks; above 1, unlikely classes count more."""


@dataclass(frozen=True, slots=True)
class StoppingOptions:
    """End of a run whose scores no longer improve."""

    patience: Annotated[int, AT_LEAST_1] = 5
    """Validations without a new best after which the run ends."""
    metric: Literal["val_miou", "val_loss"] = "val_miou"
    """What is compared; it also selects `best.safetensors`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run depends on, besides the data."""

    data: DataOptions
    """The images, and how crops are sampled from them."""
    stages: Annotated[tuple[Stage, ...], Rule("one stage or more", lambda stages: len(stages) > 0)]
    """Parts of the training, one after the other."""
    model: ModelOptions = ModelOptions()
    """The network."""
    augment: AugmentOptions = AugmentOptions()
    """Random variation of the crops."""
    loss: LossOptions = LossOptions()
    """What is minimized."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """AdamW and its schedule."""
    accumulate: Annotated[int, AT_LEAST_1] = 1
    """Batches whose gradients are averaged for a step: larger steps in the same memory."""
    freeze: Literal["none", "backbone"] = "none"
    """Part of the network that is not trained; its norms keep their statistics."""
    freeze_steps: Annotated[int, AT_LEAST_1] | None = None
    """Steps after which it is trained, too; null = never."""
    teacher: TeacherOptions | None = None
    """A network whose predictions are learned besides the labels."""
    early_stopping: StoppingOptions | None = None
    """End of the run when the scores no longer improve; null = after the last step only."""
    seed: int = 0
    """Seed of weights, crops and augmentation."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's names; auto = bf16-mixed on devices that compute in bfloat16, else 32-true. The
    recipe in the run's folder has the one that was used."""
    val_every: Annotated[int, AT_LEAST_1] = 1000
    """Steps between validations; a checkpoint is written at each, and after the last step."""
    log_every: Annotated[int, AT_LEAST_1] = 10
    """Steps between entries of the log."""
    logger: tuple[Literal["tensorboard", "csv", "mlflow", "wandb"], ...] = ("csv", "tensorboard")
    """Where losses and scores are logged. mlflow and wandb are separate packages with environment
    variables of their own, such as MLFLOW_TRACKING_URI and WANDB_MODE."""
    provenance: str = ""
    """Free text for the checkpoint: data and author."""
    license: str = ""
    """Terms of the trained weights, for the checkpoint."""
    gsd_range: tuple[float, float] | None = None
    """Ground sampling distances that the crops cover, meters a pixel, for the checkpoint."""

    def __post_init__(self) -> None:
        if (warmup := self.optimizer.warmup_steps) >= self.steps:
            raise RecipeError(
                f"optimizer.warmup_steps is {warmup}, but the stages have {self.steps} steps in "
                f"all; give fewer, such as --set optimizer.warmup_steps={self.steps // 10}"
            )
        if self.freeze == "none" and self.freeze_steps is not None:
            raise RecipeError(
                f"freeze_steps is {self.freeze_steps}, but freeze is none; set freeze: backbone"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def frozen_steps(self) -> int:
        """Steps for which the backbone is frozen."""
        if self.freeze == "none":
            return 0
        return self.steps if self.freeze_steps is None else self.freeze_steps

    @property
    def best_metric(self) -> Literal["val_miou", "val_loss"]:
        """Metric that selects the best checkpoint."""
        return "val_miou" if self.early_stopping is None else self.early_stopping.metric

    def group(self, name: str) -> GroupOptions:
        """Return the options of a group, or the defaults."""
        return self.data.groups.get(name, GroupOptions())

    def to_yaml(self) -> str:
        """Return every value as YAML, which `load_recipe` reads back."""
        plain = json.loads(json.dumps(asdict(self)))  # YAML has no tuples
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, /, **changes: Any) -> Recipe:
    """Read and check a recipe: a file, or the name of a shipped one.

    Args:
        changes: values by dotted key that replace those of the recipe, as in
            ``**{"data.root": "elsewhere", "stages.0.steps": 100}``.

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a wrong type or a contradiction;
            names the key.
    """
    try:
        content = yaml.safe_load(find_recipe(str(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"recipe {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path} holds {type(content).__name__}; a mapping is needed")
    rename_keys(content)
    for key, value in changes.items():
        set_value(content, key.split("."), value)
    recipe: Recipe = build(Recipe, content)
    return recipe


def parse_setting(key: str, text: str) -> Any:
    """Parse the YAML value of `--set KEY=VALUE`; RecipeError if it is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"--set {key}={text} is not YAML: {reason}") from error


def rename_keys(content: dict[str, Any]) -> None:
    """Give keys of earlier versions their present names."""
    for old, new in RENAMED.items():
        section, _, key = old.rpartition(".")
        node = content.get(section) if section else content
        if isinstance(node, dict) and key in node:
            node[new.rpartition(".")[2]] = node.pop(key)
