"""The options of our models: sections ``train``, ``val`` and ``logger``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cir_model.restoring.averaging import relative_weights
from cir_model.restoring.settings import InferenceOptions

Count = Annotated[float, Meta(ge=1)]
"""A number of iterations; options files may write ``5e3``."""
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """A section of an options file; unknown keys are errors."""


class OptimizerOptions(Section, kw_only=True):
    """``train.optim_g``: one of torch's optimizers and its arguments."""

    type: Annotated[
        Literal["Adam", "AdamW", "SGD", "NAdam", "RAdam"],
        Meta(description="An optimizer of torch; AdamW decouples weight decay from the gradient."),
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
    """``train.scheduler``: BasicSR's learning-rate schedules."""

    type: Literal["CosineAnnealingRestartLR", "MultiStepLR", "MultiStepRestartLR"]
    periods: Annotated[
        list[Count] | None,
        Meta(description="Cosine: iterations of each period; their sum is total_iter."),
    ] = None
    restart_weights: list[NotNegative] | None = None
    eta_min: Annotated[NotNegative, Meta(description="Cosine: the final learning rate.")] = 0
    milestones: Annotated[
        list[Count] | None, Meta(description="MultiStep: iterations at which the rate drops.")
    ] = None
    gamma: Annotated[Positive, Meta(description="MultiStep: factor of each drop.")] = 0.1
    restarts: list[NotNegative] | None = None


class GroupOptions(Section, kw_only=True):
    """One of ``train.groups``: parameters with their own learning rate or weight decay."""

    pattern: Annotated[
        str,
        Meta(
            description="Regular expression, searched in parameter names. A parameter belongs to"
            " the first group whose pattern matches."
        ),
    ]
    lr_factor: Annotated[Positive, Meta(description="Factor of the learning rate of optim_g.")] = (
        1.0
    )
    weight_decay: Annotated[NotNegative | None, Meta(description="Replaces that of optim_g.")] = (
        None
    )
    freeze: Annotated[bool, Meta(description="Do not train these parameters.")] = False


class StageOptions(Section, kw_only=True):
    """One stage of ``train.progressive``, with its own crop size and batch size."""

    iters: Annotated[
        Count, Meta(description="Iterations of the stage; the sum of all stages is total_iter.")
    ]
    gt_size: Annotated[int, Meta(ge=1, description="Replaces that of datasets.train.")]
    batch_size_per_gpu: Annotated[int, Meta(ge=1, description="Replaces that of datasets.train.")]


Arguments = dict[str, Any]
"""``type``, a registered class, and its arguments; checked against its signature."""


class TrainOptions(Section, kw_only=True):
    """Keys of ``train``."""

    total_iter: Annotated[Count, Meta(description="Number of iterations, each one optimizer step.")]
    warmup_iter: Annotated[
        int,
        Meta(ge=-1, description="Warm-up: iterations in which the learning rate rises; -1: none."),
    ] = -1
    optim_g: OptimizerOptions
    scheduler: SchedulerOptions
    no_decay: Annotated[
        bool,
        Meta(
            description="No weight decay on biases, normalisation parameters and tables of position"
            " biases."
        ),
    ] = False
    groups: Annotated[
        list[GroupOptions], Meta(description="Learning-rate factors and frozen parameters.")
    ] = []
    ema_decay: Annotated[
        float,
        Meta(ge=0, lt=1, description="Decay of the EMA weights, which validation uses; 0: no EMA."),
    ] = 0.0
    ema_warmup: Annotated[
        bool,
        Meta(
            description="Let the EMA forget the first iterations: its decay is at most"
            " (1 + n) / (10 + n) in iteration n."
        ),
    ] = False
    pixel_opt: Annotated[
        Arguments | None, Meta(description="A loss, l_pix in the log: {type: L1Loss}.")
    ] = None
    perceptual_opt: Annotated[
        Arguments | None,
        Meta(description="BasicSR's perceptual loss; l_percep and l_style in the log."),
    ] = None
    losses: Annotated[
        dict[str, Arguments],
        Meta(
            description="Further losses; each is added and logged under its name:"
            " {fourier: {type: FourierLoss, loss_weight: 0.05}}."
        ),
    ] = {}
    amp: Annotated[
        Literal["bf16", "fp16", "off"],
        Meta(
            description="Mixed precision: autocast for the network, float32 for losses; fp16 uses"
            " a gradient scaler."
        ),
    ] = "off"
    grad_clip: Annotated[
        Positive | None, Meta(description="Gradient clipping: largest norm of the whole gradient.")
    ] = None
    accum_iter: Annotated[
        int,
        Meta(
            ge=1,
            description="Gradient accumulation: batches per optimizer step. Each process loads this"
            " many times batch_size_per_gpu samples per step.",
        ),
    ] = 1
    progressive: Annotated[
        list[StageOptions],
        Meta(description="Progressive training: stages with their own crop and batch sizes."),
    ] = []
    max_nonfinite: Annotated[
        int,
        Meta(
            ge=1,
            description="Steps with a non-finite loss or gradient are skipped; training stops after"
            " this many in a row.",
        ),
    ] = 20
    tell_codec: Annotated[
        bool,
        Meta(description="Give UCIP the codec of each sample: codec_index of UCSRDataset."),
    ] = False
    compile: Annotated[bool, Meta(description="Compile the network with torch.compile.")] = False
    channels_last: Annotated[bool, Meta(description="Use the memory format channels_last.")] = False
    tf32: Annotated[
        bool | None, Meta(description="GPU: TF32 for float32 products; empty: torch's default.")
    ] = None

    def __post_init__(self) -> None:
        if next(self.loss_sections(), None) is None:
            raise ValueError("pixel_opt missing, and no losses; one loss is needed")
        for key, value in self.loss_sections():
            if "type" not in value:
                raise ValueError(f"{key}.type missing")
            if self.accum_iter > 1 and value.get("reduction") == "sum":
                raise ValueError(
                    f"{key}.reduction must be mean with accum_iter {self.accum_iter}, which"
                    " averages over batches"
                )
        self._check_lengths()

    def loss_sections(self) -> Iterator[tuple[str, Arguments]]:
        """Yield the sections of all losses, with their keys in ``train``."""
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
            description="A loss on the predicted quality 1 - QF / 100, l_quality in the log:"
            " {type: L1Loss, loss_weight: 1.0}. Samples of unknown quality do not count."
        ),
    ] = None
    teacher_forcing: Annotated[
        bool,
        Meta(
            description="Give the network the known quality of each sample, as `basicsr restore`"
            " gives it that of the file. Where it is unknown, and everywhere with false, the"
            " network uses its own prediction, which the loss on the image then trains too. For"
            " networks that take the quality, such as FBCNN."
        ),
    ] = False

    def loss_sections(self) -> Iterator[tuple[str, Arguments]]:
        """Yield the sections of all losses, with the one on the quality."""
        yield from super().loss_sections()
        if self.quality_opt:
            yield "quality_opt", self.quality_opt


class GANLossOptions(Section, kw_only=True):
    """``train.gan_opt``: BasicSR's GAN loss."""

    type: Literal["GANLoss"]
    gan_type: Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]
    loss_weight: Annotated[
        NotNegative, Meta(description="Factor of l_gan, in the training of network_g.")
    ] = 1.0
    real_label_val: Annotated[
        float, Meta(description="vanilla, lsgan: target for ground truth.")
    ] = 1.0
    fake_label_val: Annotated[float, Meta(description="vanilla, lsgan: target for outputs.")] = 0.0


class GANTrainOptions(TrainOptions, kw_only=True):
    """Keys of ``train`` for ``model_type: CIRGANModel`` and ``CODiffModel``."""

    gan_opt: Annotated[
        GANLossOptions,
        Meta(description="GAN loss; l_gan, l_d_real and l_d_fake in the log."),
    ]
    optim_d: Annotated[
        OptimizerOptions,
        Meta(description="Like optim_g, for network_d; both use the same scheduler."),
    ]
    d_loss_weight: Annotated[
        Positive, Meta(description="Factor of l_d_real and l_d_fake, in the training of network_d.")
    ] = 1.0


class PriorOptions(Section, kw_only=True):
    """``train.prior``: how stage 2 of DiffIR learns the prior of stage 1."""

    kd_l1_weight: Annotated[
        NotNegative,
        Meta(description="Factor of l_prior, the mean absolute difference of the priors."),
    ] = 1.0
    kd_kl_weight: Annotated[
        NotNegative,
        Meta(
            description="Factor of l_kl, the Kullback-Leibler divergence of the priors, each"
            " divided by 0.15 and put through a softmax."
        ),
    ] = 0.0
    encoder_iter: Annotated[
        float,
        Meta(
            ge=0,
            description="Iterations, the first ones, that train the prior alone. The schedule"
            " begins after them; total_iter includes them.",
        ),
    ] = 0
    encoder_lr: Annotated[Positive, Meta(description="Learning rate in these iterations.")] = 2e-4
    encoder_milestones: Annotated[
        list[Count], Meta(description="Iterations after which it drops.")
    ] = []
    encoder_gamma: Annotated[Positive, Meta(description="Factor of each drop.")] = 0.1

    def __post_init__(self) -> None:
        if not (self.kd_l1_weight or self.kd_kl_weight) and self.encoder_iter:
            raise ValueError(
                "encoder_iter needs a loss on the prior; give kd_l1_weight or kd_kl_weight above 0"
            )

    def decay(self, current_iter: int) -> float:
        """Return the factor of ``encoder_lr`` in an iteration, from 1 on."""
        factor: float = self.encoder_gamma ** sum(
            current_iter > milestone for milestone in self.encoder_milestones
        )
        return factor


OptionalPrior = Annotated[
    PriorOptions | None,
    Meta(description="Stage 2: how it learns the prior of network_s1; ~: by the defaults."),
]


class DiffIRTrainOptions(TrainOptions, kw_only=True):
    """Keys of ``train`` for ``model_type: DiffIRModel``."""

    prior: OptionalPrior = None


class DiffIRGANTrainOptions(GANTrainOptions, kw_only=True):
    """Keys of ``train`` for ``model_type: DiffIRGANModel``."""

    prior: OptionalPrior = None


class AveragedNetwork(Section, kw_only=True):
    """One of ``val.averaged_with``, if it is not a checkpoint of ``network_g``."""

    path: Annotated[str, Meta(description="The checkpoint.")]
    network: Annotated[
        Arguments | None,
        Meta(description="Its network, like network_g; ~: recognised from the checkpoint."),
    ] = None

    def __post_init__(self) -> None:
        if self.network is not None and "type" not in self.network:
            raise ValueError("network.type missing")


class ValOptions(InferenceOptions, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Keys of ``val``: inference, metrics, and what is saved."""

    val_freq: Annotated[
        Count | None, Meta(description="Training: iterations between two validations.")
    ] = None
    save_img: Annotated[bool, Meta(description="Save the restored images.")]
    suffix: Annotated[
        str | int | None, Meta(description="Test: suffix of image names; default: the run's name.")
    ] = None
    pbar: Annotated[bool, Meta(description="Show a progress bar.")] = False
    metrics: Annotated[
        dict[str, Arguments] | None,
        Meta(description="Metrics by name: {psnr: {type: calculate_psnr, crop_border: 0}}."),
    ] = None
    tell_codec: Annotated[
        bool,
        Meta(description="Give UCIP the codec of each sample: codec_index of UCSRDataset."),
    ] = False
    averaged_with: Annotated[
        tuple[str | AveragedNetwork, ...],
        Meta(
            description="Test: further checkpoints; their outputs are averaged with those of"
            " path.pretrain_network_g. A path: of network_g; {path: B.pth}: of a network that is"
            " recognised; {path: B.pth, network: {type: HAT}}: of this network."
        ),
    ] = ()
    averaging_weights: Annotated[
        tuple[NotNegative, ...] | None,
        Meta(
            description="Weights of the average, first that of path.pretrain_network_g, then those"
            " of averaged_with; they are divided by their sum. ~: equal weights."
        ),
    ] = None
    save_best: Annotated[
        str | None,
        Meta(
            description="Training: save the weights with the best mean of this metric over all data"
            " sets as models/net_g_best.pth."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.save_best is not None and self.save_best not in (self.metrics or {}):
            raise ValueError(f"save_best names {self.save_best!r}, which is not in metrics")
        try:
            relative_weights(self.averaging_weights, 1 + len(self.averaged_with))
        except ValueError as error:
            raise ValueError(f"averaging_weights: {error}") from error


class LoggerOptions(Section, kw_only=True):
    """Keys of ``logger``."""

    print_freq: Annotated[Count, Meta(description="Iterations between two log lines.")]
    save_checkpoint_freq: Annotated[
        Count, Meta(description="Iterations between two checkpoints with training states.")
    ]
    keep_checkpoints: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How many checkpoints are kept; empty: all."),
    ] = None
    use_tb_logger: Annotated[bool, Meta(description="Write curves and images for TensorBoard.")]
    tb_images: Annotated[
        int, Meta(ge=0, description="TensorBoard: restored images per data set.")
    ] = 4
    wandb: Annotated[
        dict[str, Any] | None,
        Meta(description="Weights & Biases, as in BasicSR: project and resume_id."),
    ] = None
