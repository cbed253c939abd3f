"""The options of our models: what may stand in ``train``, ``val`` and ``logger``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cir_model.restoring.options import InferenceOptions

Count = Annotated[float, Meta(ge=1)]
"""A number of iterations; files write ``5e3`` too."""
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """A section of an options file in which every key is known."""


class OptimizerOptions(Section, kw_only=True):
    """``train.optim_g``: torch's optimizers with their own arguments."""

    type: Annotated[
        Literal["Adam", "AdamW", "SGD", "NAdam", "RAdam"],
        Meta(description="AdamW decouples the weight decay from the gradient."),
    ]
    lr: Positive
    weight_decay: NotNegative = 0
    betas: tuple[NotNegative, NotNegative] | None = None
    eps: Positive | None = None
    amsgrad: bool | None = None
    momentum: NotNegative | None = None
    dampening: NotNegative | None = None
    nesterov: bool | None = None
    momentum_decay: NotNegative | None = None
    decoupled_weight_decay: bool | None = None
    foreach: bool | None = None
    fused: bool | None = None


class SchedulerOptions(Section, kw_only=True):
    """``train.scheduler``: BasicSR's schedules of the learning rate."""

    type: Literal["CosineAnnealingRestartLR", "MultiStepLR", "MultiStepRestartLR"]
    periods: Annotated[
        list[Count] | None,
        Meta(description="Cosine: iterations of each period. They sum to total_iter."),
    ] = None
    restart_weights: list[NotNegative] | None = None
    eta_min: Annotated[NotNegative, Meta(description="Cosine: the last learning rate.")] = 0
    milestones: Annotated[
        list[Count] | None, Meta(description="MultiStep: iterations after which it is lowered.")
    ] = None
    gamma: Annotated[Positive, Meta(description="MultiStep: by what it is multiplied.")] = 0.1
    restarts: list[NotNegative] | None = None


class GroupOptions(Section, kw_only=True):
    """One of ``train.groups``: parameters that train in a way of their own."""

    pattern: Annotated[
        str,
        Meta(
            description="A regular expression, searched in the names of the parameters. A parameter"
            " belongs to the first group whose pattern it has."
        ),
    ]
    lr_factor: Annotated[Positive, Meta(description="Multiplies the learning rate of optim_g.")] = (
        1.0
    )
    weight_decay: Annotated[
        NotNegative | None, Meta(description="In place of that of optim_g.")
    ] = None
    freeze: Annotated[bool, Meta(description="The parameters stay as they are.")] = False


class StageOptions(Section, kw_only=True):
    """One of ``train.progressive``: a part of the training with crops of one size."""

    iters: Annotated[Count, Meta(description="How long it lasts. All sum to total_iter.")]
    gt_size: Annotated[int, Meta(ge=1, description="In place of that of datasets.train.")]
    batch_size_per_gpu: Annotated[
        int, Meta(ge=1, description="In place of that of datasets.train.")
    ]


Arguments = dict[str, Any]
"""``type`` and what the registered class is given; checked against its signature."""


class TrainOptions(Section, kw_only=True):
    """Keys of ``train``."""

    total_iter: Annotated[Count, Meta(description="Iterations, each of one optimizer step.")]
    warmup_iter: Annotated[
        int, Meta(ge=-1, description="Iterations over which the learning rate rises; -1 for none.")
    ] = -1
    optim_g: OptimizerOptions
    scheduler: SchedulerOptions
    no_decay: Annotated[
        bool,
        Meta(
            description="No weight decay on biases, the parameters of normalisations and tables of"
            " position biases."
        ),
    ] = False
    groups: Annotated[
        list[GroupOptions], Meta(description="Learning-rate factors and frozen parameters.")
    ] = []
    ema_decay: Annotated[
        float,
        Meta(ge=0, lt=1, description="Averaged weights, which validation measures; 0 for none."),
    ] = 0.0
    pixel_opt: Annotated[
        Arguments | None, Meta(description="A loss, l_pix in the log: {type: L1Loss}.")
    ] = None
    perceptual_opt: Annotated[
        Arguments | None, Meta(description="BasicSR's perceptual loss, l_percep and l_style.")
    ] = None
    losses: Annotated[
        dict[str, Arguments],
        Meta(
            description="More losses by the names that they have in the log:"
            " {fourier: {type: NAME, loss_weight: 0.05}}. All are added."
        ),
    ] = {}
    amp: Annotated[
        Literal["bf16", "fp16", "off"],
        Meta(
            description="Mixed precision: the network under autocast, losses in float32; fp16 with"
            " a gradient scaler."
        ),
    ] = "off"
    grad_clip: Annotated[
        Positive | None, Meta(description="Largest norm of the whole gradient.")
    ] = None
    accum_iter: Annotated[
        int,
        Meta(
            ge=1,
            description="Parts of a step: each process passes batch_size_per_gpu samples through"
            " the network so often before the optimizer steps, as if they were one batch.",
        ),
    ] = 1
    progressive: Annotated[
        list[StageOptions], Meta(description="Crops and batches that change in the training.")
    ] = []
    max_nonfinite: Annotated[
        int,
        Meta(
            ge=1,
            description="A step whose loss or gradient is not finite is skipped and counted; after"
            " so many in a row the training stops.",
        ),
    ] = 20
    tell_codec: Annotated[
        bool,
        Meta(description="Tell UCIP the codec of each sample, the codec_index of UCSRDataset."),
    ] = False
    compile: Annotated[bool, Meta(description="Train the network by torch.compile.")] = False
    channels_last: Annotated[
        bool, Meta(description="Keep images and convolutions in memory with channels last.")
    ] = False
    tf32: Annotated[
        bool | None, Meta(description="GPU: TF32 in products of float32; torch's choice if empty.")
    ] = None

    def __post_init__(self) -> None:
        if next(self.loss_sections(), None) is None:
            raise ValueError("pixel_opt missing, and no losses; one loss is needed")
        for key, value in self.loss_sections():
            if "type" not in value:
                raise ValueError(f"{key}.type missing")
            if self.accum_iter > 1 and value.get("reduction") == "sum":
                raise ValueError(
                    f"{key}.reduction must be mean with accum_iter {self.accum_iter}, which adds"
                    " up means"
                )
        self._check_lengths()

    def loss_sections(self) -> Iterator[tuple[str, Arguments]]:
        """Yield the sections that describe losses with their names below ``train``."""
        for key in ("pixel_opt", "perceptual_opt"):
            if value := getattr(self, key):
                yield key, value
        for key, value in self.losses.items():
            yield f"losses.{key}", value

    def _check_lengths(self) -> None:
        periods, scheduler = self.scheduler.periods, self.scheduler.type
        if scheduler == "CosineAnnealingRestartLR" and periods is None:
            raise ValueError(f"scheduler.periods missing; {scheduler} needs it")
        if scheduler != "CosineAnnealingRestartLR" and self.scheduler.milestones is None:
            raise ValueError(f"scheduler.milestones missing; {scheduler} needs it")
        if self.progressive:
            length = sum(stage.iters for stage in self.progressive)
            if length != self.total_iter:
                raise ValueError(
                    f"progressive has stages of {length:.0f} iterations, total_iter is"
                    f" {self.total_iter:.0f}"
                )


class CaVETrainOptions(TrainOptions, kw_only=True):
    """Keys of ``train`` for ``model_type: CaVEModel``."""

    quality_opt: Annotated[
        Arguments | None,
        Meta(
            description="A loss on the predicted quality, as 1 - QF / 100, l_quality in the log:"
            " {type: L1Loss, loss_weight: 1.0}."
        ),
    ] = None

    def loss_sections(self) -> Iterator[tuple[str, Arguments]]:
        """Yield the loss on the quality too."""
        yield from super().loss_sections()
        if self.quality_opt:
            yield "quality_opt", self.quality_opt


class GANLossOptions(Section, kw_only=True):
    """``train.gan_opt``: BasicSR's loss on what the discriminator says."""

    type: Literal["GANLoss"]
    gan_type: Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]
    loss_weight: Annotated[
        NotNegative, Meta(description="Factor in the training of network_g alone.")
    ] = 1.0
    real_label_val: Annotated[float, Meta(description="vanilla, lsgan: target of originals.")] = 1.0
    fake_label_val: Annotated[float, Meta(description="vanilla, lsgan: target of outputs.")] = 0.0


class GANTrainOptions(TrainOptions, kw_only=True):
    """Keys of ``train`` for ``model_type: CIRGANModel``."""

    gan_opt: Annotated[
        GANLossOptions,
        Meta(description="The loss between the networks; l_gan, l_d_real and l_d_fake in the log."),
    ]
    optim_d: Annotated[
        OptimizerOptions,
        Meta(description="As optim_g, for network_d; both follow the same scheduler."),
    ]


class ValOptions(InferenceOptions, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Keys of ``val``: how images pass through the network, and what is measured and kept."""

    val_freq: Annotated[Count | None, Meta(description="Training: iterations between two.")] = None
    save_img: Annotated[bool, Meta(description="Write the restored images.")]
    suffix: Annotated[
        str | int | None, Meta(description="Test: end of the images' names, else the run's name.")
    ] = None
    pbar: Annotated[bool, Meta(description="Show a bar over the images.")] = False
    metrics: Annotated[
        dict[str, Arguments] | None,
        Meta(description="By name: {psnr: {type: calculate_psnr, crop_border: 0}}."),
    ] = None
    tell_codec: Annotated[
        bool,
        Meta(description="Tell UCIP the codec of each sample, the codec_index of UCSRDataset."),
    ] = False
    averaged_with: Annotated[
        tuple[str, ...],
        Meta(
            description="Test: further checkpoints of the network, whose outputs are averaged with"
            " those of path.pretrain_network_g."
        ),
    ] = ()
    save_best: Annotated[
        str | None,
        Meta(
            description="Training: a metric; the weights with its best mean over all data sets are"
            " kept in models/net_g_best.pth."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.save_best is not None and self.save_best not in (self.metrics or {}):
            raise ValueError(f"save_best names {self.save_best!r}, which is not in metrics")


class LoggerOptions(Section, kw_only=True):
    """Keys of ``logger``."""

    print_freq: Annotated[Count, Meta(description="Iterations between two lines of the log.")]
    save_checkpoint_freq: Annotated[
        Count, Meta(description="Iterations between two checkpoints with training states.")
    ]
    keep_checkpoints: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How many of these stay on the disk; all if empty."),
    ] = None
    use_tb_logger: Annotated[bool, Meta(description="Write curves and images for TensorBoard.")]
    tb_images: Annotated[
        int, Meta(ge=0, description="Restored images per data set for TensorBoard.")
    ] = 4
    wandb: Annotated[
        dict[str, Any] | None, Meta(description="BasicSR's: project and resume_id.")
    ] = None
