"""What each argument of transformers' `Trainer` is in jaxfm: the one table behind `from_trainer` and its page.

The names and defaults are those of transformers 5; arguments that only version 4 had are marked.
"""

import dataclasses
from typing import Any, Literal

# same: the key has the same meaning and takes the same value; converted: `trainer_conversion` computes it;
# unneeded: jaxfm does so in any case, or has no use for it; absent: jaxfm has nothing that does this.
Fate = Literal["same", "converted", "unneeded", "absent"]


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument of TrainingArguments.

    Attributes:
      name: its name.
      default: the Trainer's own.
      fate: see `Fate`.
      keys: of jaxfm's config; empty where it has none.
      remark: how the value is converted, or why there is no key.
      old: only transformers 4 had it.
    """

    name: str
    default: Any
    fate: Fate
    keys: tuple[str, ...] = ()
    remark: str = ""
    old: bool = False


def _same(name: str, default: Any, key: str, remark: str = "") -> Argument:
    return Argument(name, default, "same", (key,), remark)


def _converted(name: str, default: Any, keys: str, remark: str, *, old: bool = False) -> Argument:
    return Argument(name, default, "converted", tuple(keys.split()), remark, old)


def _unneeded(name: str, default: Any, remark: str, *, old: bool = False) -> Argument:
    return Argument(name, default, "unneeded", (), remark, old)


def _absent(name: str, default: Any, remark: str, *, old: bool = False) -> Argument:
    return Argument(name, default, "absent", (), remark, old)


_LENGTH = (
    _converted("output_dir", None, "", "`--workdir`"),
    _same("num_train_epochs", 3.0, "train.epochs"),
    _converted("max_steps", -1, "train.steps", "-1 is 0: as the epochs say"),
    _converted(
        "per_device_train_batch_size",
        8,
        "train.batch_size train.batch_examples",
        "examples of one update: this, times the devices (`--devices`), times `gradient_accumulation_steps`. The batch "
        "size is then `examples`: as many packed rows as hold them. Masked LM fills its rows, and counts these",
    ),
    _converted("gradient_accumulation_steps", 1, "train.accumulate", "the batch of an update is what they sum up to"),
    _converted("per_device_eval_batch_size", 8, "eval.batch_size", "times the devices; it changes no score"),
    _converted("auto_find_batch_size", False, "train.batch_size", "True is auto: as many rows as fit"),
)
_OPTIMIZER = (
    _same("learning_rate", 5e-5, "optim.learning_rate"),
    _converted(
        "lr_scheduler_type",
        "linear",
        "optim.schedule",
        "linear, cosine and constant have the same names; constant_with_warmup is constant, warmup_stable_decay is "
        "wsd, cosine_with_min_lr is cosine with `optim.final_fraction`, polynomial has `optim.decay_power`, and is "
        "linear at power 1; inverse_sqrt has the same name. The others have no equivalent",
    ),
    _converted(
        "lr_scheduler_kwargs",
        None,
        "optim.final_fraction optim.decay_fraction",
        "min_lr, min_lr_rate, lr_end; power; num_decay_steps where max_steps is known",
    ),
    _converted(
        "warmup_steps",
        0,
        "optim.warmup_fraction",
        "below 1 it is the fraction itself; a number of steps is divided by max_steps, and has no equivalent without",
    ),
    _converted("warmup_ratio", 0.0, "optim.warmup_fraction", "the same number", old=True),
    _same(
        "weight_decay", 0.0, "optim.weight_decay", "biases and norms have none (`optim.no_decay`), as in the Trainer"
    ),
    _converted("adam_beta1", 0.9, "optim.b1", "the same number; of Lion `optim.lion.b1`"),
    _converted("adam_beta2", 0.999, "optim.b2", "the same number; of Lion `optim.lion.b2`"),
    _converted("adam_epsilon", 1e-8, "optim.eps", "the same number"),
    _same("max_grad_norm", 1.0, "optim.clip_norm", "0: never, in both"),
    _converted(
        "optim",
        "adamw_torch",
        "optim.name",
        "every form of AdamW (adamw_torch, fused, apex ...) is adamw; sgd, adafactor, lion_32bit, stable_adamw and "
        "schedule_free_adamw have their like. The others have no equivalent",
    ),
    _absent("optim_args", None, "of optimizers other than AdamW: see the groups of `optim`"),
    _absent("optim_target_modules", None, "of GaLore and APOLLO"),
    _converted("adafactor", False, "optim.name", "True is adafactor", old=True),
    _converted("label_smoothing_factor", 0.0, "task.loss.label_smoothing", "of classes; masked LM has none"),
    _absent("neftune_noise_alpha", None, "noise on embeddings, for instruction tuning of decoders"),
    _unneeded("average_tokens_across_devices", True, "every loss is a sum over all devices, divided once"),
    _same("seed", 42, "seed"),
    _unneeded("data_seed", None, "`seed` draws the order of the rows too"),
    _unneeded("full_determinism", False, "the same config on the same devices gives the same run"),
)
_PRECISION = (
    _converted(
        "bf16", False, "train.precision", "True is bf16, False is f32; jaxfm's own default is bf16 on TPU and GPU"
    ),
    _converted("fp16", False, "train.precision", "bf16 takes its place: there is no f16, so no loss is scaled"),
    _unneeded("bf16_full_eval", False, "evaluation computes as `train.precision` says"),
    _unneeded("fp16_full_eval", False, "evaluation computes as `train.precision` says"),
    _unneeded("tf32", None, "`train.precision=bf16` uses the tensor cores"),
    _unneeded("half_precision_backend", "auto", "XLA computes", old=True),
    _unneeded("fp16_backend", "auto", "XLA computes", old=True),
    _unneeded("fp16_opt_level", "O1", "of Apex", old=True),
    _converted(
        "activation_checkpointing", None, "model.remat", "True is full; `dots` keeps the products and is faster"
    ),
    _converted("gradient_checkpointing", None, "model.remat", "True is full; `dots` keeps the products and is faster"),
    _unneeded("activation_checkpointing_kwargs", None, "of torch"),
    _unneeded("gradient_checkpointing_kwargs", None, "of torch"),
    _unneeded("torch_compile", False, "XLA always compiles the whole step"),
    _unneeded("torch_compile_backend", None, "XLA always compiles the whole step"),
    _unneeded("torch_compile_mode", None, "XLA always compiles the whole step"),
    _unneeded("torchdynamo", None, "XLA always compiles the whole step", old=True),
    _unneeded("jit_mode_eval", False, "XLA always compiles the whole step", old=True),
    _unneeded("use_ipex", False, "XLA always compiles the whole step", old=True),
    _unneeded("use_liger_kernel", False, "XLA fuses; attention kernels: `model.attention`"),
    _unneeded("liger_kernel_config", None, "XLA fuses; attention kernels: `model.attention`"),
    _unneeded("use_cache", False, "of decoders"),
    _unneeded("torch_empty_cache_steps", None, "XLA plans all memory before the first step"),
)
_EVALUATION = (
    _converted(
        "eval_strategy",
        "no",
        "eval.every_steps",
        "steps: as `eval_steps` says; epoch: 0; no: the split is scored once an epoch all the same, see "
        "`load_best_model_at_end`",
    ),
    _converted(
        "eval_steps", None, "eval.every_steps", "`logging_steps` where it is not given; below 1 it needs max_steps"
    ),
    _absent("eval_delay", 0, "evaluations begin with the first interval"),
    _absent("eval_on_start", False, "the first evaluation is after the first interval"),
    _converted("load_best_model_at_end", False, "eval.select", "True is best, False is last"),
    _converted(
        "metric_for_best_model",
        None,
        "eval.metric",
        "without eval_ and overall_; what compute_metrics alone knows is a [metric of your own](extending.md)",
    ),
    _unneeded("greater_is_better", None, "jaxfm knows the direction of each metric"),
    _converted(
        "save_strategy", "steps", "checkpoint.every_steps", "checkpoints are saved at each evaluation in any case"
    ),
    _converted("save_steps", 500, "checkpoint.every_steps", "where save_strategy is steps; below 1 it needs max_steps"),
    _converted("save_total_limit", None, "checkpoint.keep_last", "the best one is kept as well, and not counted"),
    _unneeded("save_only_model", False, "a finished run is exported without optimizer: `jaxfm.export`"),
    _unneeded("save_on_each_node", False, "all processes write one run directory"),
    _unneeded("save_safetensors", True, "nothing is ever pickled", old=True),
    _unneeded("enable_jit_checkpoint", False, "SIGTERM and Ctrl-C always save before the process ends"),
    _unneeded("overwrite_output_dir", False, "a run of another config is never overwritten", old=True),
    _unneeded("resume_from_checkpoint", None, "the same command goes on from the newest whole checkpoint"),
    _unneeded("ignore_data_skip", False, "the batch of a step is computed from its number: nothing is skipped"),
    _unneeded("restore_callback_states_from_checkpoint", False, "the best evaluation so far is in the checkpoint"),
    _unneeded("prediction_loss_only", False, "metrics are always computed"),
    _unneeded("eval_accumulation_steps", None, "outputs leave the devices after each batch"),
    _unneeded("eval_do_concat_batches", True, "metrics see the whole split"),
    _unneeded("eval_use_gather_object", False, "metrics see the whole split"),
    _unneeded("batch_eval_metrics", False, "metrics see the whole split"),
    _unneeded("include_for_metrics", [], "a metric of your own is given gold targets and predictions"),
    _unneeded(
        "include_inputs_for_metrics", False, "a metric of your own is given gold targets and predictions", old=True
    ),
    _unneeded("do_train", False, "jaxfm.train trains, scores every split and writes the report"),
    _unneeded("do_eval", False, "jaxfm.train trains, scores every split and writes the report"),
    _unneeded("do_predict", False, "jaxfm.predict"),
)
_LOGS = (
    _converted("logging_steps", 500, "log.every_steps", "below 1 it needs max_steps"),
    _converted("logging_strategy", "steps", "log.every_steps", "steps alone"),
    _converted(
        "report_to",
        "none",
        "log.tensorboard",
        "tensorboard is True, none is False; wandb, mlflow, trackio are `log.tracker`, which takes one",
    ),
    _unneeded("logging_dir", None, "TensorBoard's events are in the run directory", old=True),
    _unneeded("logging_first_step", False, "lines are written every `log.every_steps`"),
    _unneeded("logging_nan_inf_filter", True, "a step whose gradient is not finite changes nothing and is counted"),
    _unneeded("log_on_each_node", True, "process 0 alone writes"),
    _unneeded("log_level", "passive", "a run prints what a person needs"),
    _unneeded("log_level_replica", "warning", "process 0 alone writes"),
    _unneeded("disable_tqdm", None, "a bar on a terminal and in a notebook, plain lines in a file"),
    _unneeded("include_num_input_tokens_seen", "no", "tokens a second are in every log line"),
    _unneeded("include_tokens_per_second", None, "tokens a second are in every log line", old=True),
    _unneeded("run_name", None, "a run is named by its directory"),
    _unneeded("project", "huggingface", "of Trackio"),
    _unneeded("trackio_space_id", None, "of Trackio"),
    _unneeded("trackio_bucket_id", None, "of Trackio"),
    _unneeded("trackio_static_space_id", None, "of Trackio"),
    _unneeded("debug", "", "of torch"),
    _unneeded("skip_memory_metrics", True, "`jaxfm.plan` says what a run needs before it starts"),
)
_DEVICES = (
    _converted("fsdp", None, "parallel.mesh.data parallel.mesh.fsdp", "1 and -1: parameters are cut over all devices"),
    _converted("deepspeed", None, "parallel.mesh.data parallel.mesh.fsdp", "1 and -1, as ZeRO 3; nothing is offloaded"),
    _unneeded("fsdp_config", None, "GSPMD cuts every parameter by its axes"),
    _unneeded("fsdp_min_num_params", 0, "GSPMD cuts every parameter by its axes", old=True),
    _unneeded("fsdp_transformer_layer_cls_to_wrap", None, "GSPMD cuts every parameter by its axes", old=True),
    _unneeded("parallelism_config", None, "`parallel.mesh` has the axes data, fsdp, tensor and sequence"),
    _unneeded("accelerator_config", None, "JAX finds the devices"),
    _unneeded("use_cpu", False, "JAX_PLATFORMS=cpu in the environment"),
    _unneeded("no_cuda", False, "JAX_PLATFORMS=cpu in the environment", old=True),
    _unneeded("use_mps_device", False, "JAX finds the devices", old=True),
    _unneeded("local_rank", -1, "JAX finds the [processes](multi_host.md)"),
    _unneeded("ddp_backend", None, "XLA's own collectives"),
    _unneeded("ddp_timeout", 1800, "`--heartbeat_timeout` and `--start_timeout`"),
    _unneeded("ddp_find_unused_parameters", None, "gradients are functions: none is waited for"),
    _unneeded("ddp_bucket_cap_mb", None, "XLA combines collectives"),
    _unneeded("ddp_broadcast_buffers", None, "there are no buffers"),
    _unneeded("ddp_static_graph", None, "a compiled step is one"),
    _unneeded("dispatch_batches", None, "every process makes its own rows of the global batch", old=True),
    _unneeded("split_batches", None, "every process makes its own rows of the global batch", old=True),
    _unneeded("ray_scope", "last", "of a search by Ray; `jaxfm.train` is a function to call in a loop", old=True),
    _unneeded("tpu_num_cores", None, "JAX finds the devices", old=True),
    _unneeded("tpu_metrics_debug", False, "of torch_xla", old=True),
    _unneeded("mp_parameters", "", "of SageMaker", old=True),
    _unneeded("past_index", -1, "of decoders", old=True),
)
_DATA = (
    _unneeded("group_by_length", False, "rows are packed: there is hardly any padding", old=True),
    _unneeded(
        "train_sampling_strategy", "random", "rows are shuffled each epoch; packed rows need no groups by length"
    ),
    _unneeded("length_column_name", "length", "rows are packed: there is hardly any padding"),
    _unneeded("dataloader_num_workers", 0, "rows are packed once, then read ahead"),
    _unneeded("dataloader_pin_memory", True, "of torch"),
    _unneeded("dataloader_persistent_workers", False, "rows are packed once, then read ahead"),
    _unneeded("dataloader_prefetch_factor", None, "rows are packed once, then read ahead"),
    _unneeded("dataloader_multiprocessing_context", None, "rows are packed once, then read ahead"),
    _unneeded("dataloader_in_order", True, "the batch of a step is computed from its number"),
    _unneeded("dataloader_drop_last", False, "an epoch is whole batches; what is left over begins the next one"),
    _unneeded("remove_unused_columns", True, "`data.text_column` and its like name the columns that are read"),
    _unneeded("label_names", None, "`data.label_column`, `data.tags_column`"),
)
_HUB = tuple(
    _unneeded(name, default, "`jaxfm.export`, then `hf upload NAME DIR`", old=old)
    for name, default, old in (
        ("push_to_hub", False, False),
        ("hub_model_id", None, False),
        ("hub_strategy", "every_save", False),
        ("hub_token", None, False),
        ("hub_private_repo", None, False),
        ("hub_always_push", False, False),
        ("hub_revision", None, False),
        ("push_to_hub_model_id", None, True),
        ("push_to_hub_organization", None, True),
        ("push_to_hub_token", None, True),
    )
)

GROUPS: dict[str, tuple[Argument, ...]] = {
    "Length and batch": _LENGTH,
    "Optimizer and loss": _OPTIMIZER,
    "Precision, memory and compilation": _PRECISION,
    "Evaluation and checkpoints": _EVALUATION,
    "Logs": _LOGS,
    "Devices": _DEVICES,
    "Data loading": _DATA,
    "The hub": _HUB,
}
ARGUMENTS: dict[str, Argument] = {argument.name: argument for group in GROUPS.values() for argument in group}
# Names of before -> today's, with the same values.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}

# What else a script has: (call or argument, what it is in jaxfm).
OTHERS: dict[str, dict[str, str]] = {
    "The call of Trainer": {
        "model": "`model.init`; AutoModelForTokenClassification is `ner:files`, ...ForSequenceClassification "
        "`classification:files`, ...ForMaskedLM `mlm:continue`, ...ForCausalLM `clm:continue`",
        "args": "the tables above",
        "train_dataset": "`data=` of `jaxfm.train`, or `data.source`",
        "eval_dataset": "`data=` of `jaxfm.train`, or `data.source`",
        "processing_class": "the tokenizer beside the weights; another one: `model.tokenizer`",
        "tokenizer": "the tokenizer beside the weights; another one: `model.tokenizer`",
        "data_collator": "not needed: jaxfm tokenizes, aligns labels with words, packs and masks",
        "compute_metrics": "the usual metrics are there, with intervals; your own: `jaxfm.register_metric`",
        "preprocess_logits_for_metrics": "not needed: metrics are given predictions",
        "compute_loss_func": "`task.loss`; your own: `jaxfm.register_loss`",
        "model_init": "not needed: a run begins with the weights of `model.init`",
        "callbacks": "early stopping is `eval.patience`; there are no other callbacks, but a loop of your own: "
        "`jaxfm.training.session`",
        "optimizers": "`optim.name` and `optim.schedule`; no others",
        "optimizer_cls_and_kwargs": "`optim.name` and `optim.schedule`; no others",
    },
    "Other calls": {
        "EarlyStoppingCallback(early_stopping_patience)": "`eval.patience`",
        "EarlyStoppingCallback(early_stopping_threshold)": "no equivalent: any gain counts",
        "AutoModelFor...from_pretrained(NAME)": "`model.init`: hf:NAME, or dir:PATH",
        "load_dataset(NAME, CONFIG)": "`data.source`: hf:NAME:CONFIG",
        "DataCollatorForLanguageModeling(mlm_probability)": "`task.ratio`",
        "DataCollatorWithPadding, DataCollatorForTokenClassification": "not needed: rows are packed, labels follow "
        "words",
        "tokenizer(..., max_length=N)": "`data.row_length`",
        "trainer.train(resume_from_checkpoint=...)": "not needed: the same command goes on",
        "trainer.evaluate(), trainer.predict()": "`jaxfm.evaluate`, `jaxfm.predict`",
        "trainer.save_model(), push_to_hub()": "`jaxfm.export` writes what from_pretrained opens",
        "pipeline(...)": "`jaxfm.load(workdir)`",
        "LoraConfig(r, lora_alpha, target_modules)": "`adapt.lora.rank`, `adapt.lora.alpha`, `adapt.lora.targets`",
        "LoraConfig(lora_dropout)": "no equivalent: dropout is that of the encoder",
        "LoraConfig(bias)": "no equivalent: biases stay as they are; `adapt.train=biases` is BitFit",
        "LoraConfig(use_rslora)": "no equivalent: the factor is alpha / rank",
        "LoraConfig(use_dora)": "no equivalent",
        "LoraConfig(modules_to_save)": "not needed: the head is always trained",
        "LoraConfig(layers_to_transform)": "no equivalent: every layer has an update",
    },
}
