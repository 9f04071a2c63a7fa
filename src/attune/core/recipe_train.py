"""The `train` section of a recipe."""

from __future__ import annotations

from typing import Literal

from attune.core.keys import Keys, key


class TrainKeys(Keys):
    """How the one loop trains."""

    epochs: float | None = key(None, "passes over the training rows; default: the method's", aliases=("num_epochs", "num_train_epochs"), gt=0)
    learning_rate: float | None = key(None, "peak learning rate; default: the method's", aliases=("lr",), gt=0)
    head_learning_rate: float | None = key(None, "peak learning rate of a fresh head; default: learning_rate, but at least 1e-3", gt=0)
    batch_size: int = key(32, "rows of one optimizer step (all micro-batches together)", aliases=("global_batch_size",), ge=1)
    micro_batch_size: int | None = key(None, "rows computed at once; default: batch_size", aliases=("per_device_train_batch_size",), ge=1)
    max_length: int = key(
        128,
        "tokens per row; a longer text loses its end, a longer conversation its oldest turns or steps, but never what the system says, the functions or the answer (a row of which these need more is left out); see long_rows",
        aliases=("max_seq_length", "cutoff_len", "sequence_len", "model_max_length", "block_size"),
        ge=4,
    )
    long_rows: Literal["shorten", "drop", "refuse"] = key(
        "shorten", "what becomes of rows longer than max_length, each with a receipt: shorten them, drop (set them aside), or refuse (the run ends before its first step and names them)"
    )
    warmup_ratio: float = key(0.1, "share of steps over which the rate rises", ge=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant"] = key("linear", "how the rate falls after warm-up", aliases=("lr_scheduler", "lr_scheduler_type"))
    weight_decay: float = key(0.01, "AdamW's decay, not on biases and norms", ge=0)
    max_gradient_norm: float = key(1.0, "gradients longer than this are scaled down", aliases=("max_grad_norm",), gt=0)
    dropout: float | None = key(None, "dropout inside the body; default: the base's own", ge=0, lt=1)
    neftune: float | None = key(
        None, "noise on the embeddings while training (NEFTune's alpha, for example 5); helps answers of chat models; default: none", aliases=("neftune_noise_alpha", "noisy_embedding_alpha"), gt=0
    )
    average: float = key(0.998, "decay of the moving average of weights that is graded and kept; 0: none", aliases=("ema_decay",), ge=0, lt=1)
    accept: list[str] = key([], "tripwires whose alarms are told and do not end the run, by name (see `attune list tripwires`)")
    evaluations_per_epoch: int = key(1, "how often the validation rows are looked at", ge=1)
    patience: int = key(3, "evaluations without a better main metric before training stops", aliases=("early_stopping_patience",), ge=1)
    keep: Literal["best", "last"] | None = key(None, "the step whose weights are kept: the best by the validation rows, or the last of all; default: the objective's, mostly best")
    refit: bool | None = key(None, "after the best step was chosen, train once more so far on training and validation rows together; default: the method's")
    checkpoint_every: int = key(200, "optimizer steps between checkpoints", aliases=("save_steps",), ge=1)
    wait_for_disk: float = key(10, "minutes that a run whose checkpoint finds the disk full waits for room before it stops (it can be resumed); 0: stop at once", ge=0)
    compile: Literal["off", "on", "auto"] = key(
        "off", "torch.compile for the dense parts of the layers, which needs a C++ compiler; auto: where a measurement says that it pays back; a resume is then equal up to rounding only"
    )
    cache_gb: float | None = key(
        None,
        "gigabytes of disk that answers of frozen layers, and features of a frozen base, may take in the workspace, older ones go first; default: 20, or a tenth of the disk's room where that is less; 0: none are kept",
        ge=0,
    )
    precision: Literal["auto", "fp32", "bf16"] = key("auto", "number format of the matrix products; auto probes the processor")
