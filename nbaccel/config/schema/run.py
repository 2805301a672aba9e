"""The top level of the schema: what a run is, on which machines, and how it trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nbaccel.config.schema.compute import DynamoConfig, Fp8Config, ParallelismConfig
from nbaccel.config.schema.deepspeed import DeepSpeedConfig
from nbaccel.config.schema.fsdp import FsdpConfig
from nbaccel.config.schema.key import EVERYWHERE, IN_NOTEBOOKS, Lines, Names, Section, key
from nbaccel.config.schema.megatron import MegatronLmConfig
from nbaccel.config.schema.training import (
    AutocastConfig,
    DataloaderConfig,
    DdpConfig,
    GradientAccumulationConfig,
    GradScalerConfig,
    ProcessGroupConfig,
    ProjectConfig,
)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a truth value is no index")
    return value


def _digit(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_TEE = r"^([0-3]|\d+:[0-3](,\d+:[0-3])*)$"
_PAIRS = r"^([^=,]+=[^=,]*(,[^=,]+=[^=,]*)*)?$"
Precision = Literal["no", "fp16", "bf16", "fp8"]
StartMethod = Literal["zygote", "spawn", "fork", "inline"]
OutputMode = Literal["auto", "all", "ranks", "main"]
MonitorMode = Literal["auto", "always", "never"]
GpuIds = Literal["all"] | tuple[Annotated[int, Field(ge=0), BeforeValidator(_number)], ...]
DistributedType = Literal[
    "NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_XPU", "MULTI_HPU",
    "MULTI_NEURON", "DEEPSPEED", "FSDP", "XLA", "MEGATRON_LM", "DATA_PARALLEL", "MODEL_PARALLEL",
]  # fmt: skip
_OLD_TYPES = {"NO_DISTRIBUTED": "NO", "MPS": "NO", "TPU": "XLA"}

_TEXTS = "a text, or a list of them"
_SEVERAL_MACHINES = ("num_machines", ("2 or more",))
_ON_SAGEMAKER: dict[str, Any] = {"group": "SageMaker", "needs": ("compute_environment", ("AMAZON_SAGEMAKER",))}
_ON_TPU: dict[str, Any] = {"group": "TPU", "honoured_by": ("xla",), "needs": ("distributed_type", ("XLA",))}


def _gpu_list(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) and value.strip().lower() != "all":
        return tuple(part.strip() for part in value.strip("[] ").split(",") if part.strip())
    return value.strip().lower() if isinstance(value, str) else value


def _type(value: object) -> object:
    return _OLD_TYPES.get(value.strip().upper(), value) if isinstance(value, str) else value


class MpirunConfig(Section):
    """mpirun's settings."""

    mpirun_hostfile: str | None = key(None, "Hosts of several machines.", possible="a file")


class RunConfig(Section):
    """The configuration of a run, all layers merged and checked."""

    # where it runs

    compute_environment: Literal["LOCAL_MACHINE", "CLUSTER", "AMAZON_SAGEMAKER"] = key(
        "LOCAL_MACHINE", "What kind of place the run is started at.", group="Machines", honoured_by=EVERYWHERE
    )
    distributed_type: Annotated[DistributedType, BeforeValidator(_type)] | None = key(
        None,
        "How processes train together; left out: one process alone, or DDP with several.",
        group="Machines",
        honoured_by=(*EVERYWHERE, "ddp", "fsdp", "deepspeed", "megatron_lm", "xla"),
    )
    num_processes: Annotated[int, Field(ge=1)] | None = key(
        None,
        "Worker processes over all machines; left out: one per device, else one per physical core up to 4.",
        env="ACCELERATE_NUM_PROCESSES",
        more_flags=("-n",),
        possible="a whole number from 1",
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    use_cpu: bool = key(
        False,
        "Train on the CPU even if there are other devices.",
        env="ACCELERATE_USE_CPU",
        more_flags=("--cpu",),
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    gpu_ids: Annotated[GpuIds, BeforeValidator(_gpu_list)] | None = key(
        None,
        "GPUs to train on, by their index among the visible ones.",
        env="ACCELERATE_GPU_IDS",
        possible='all, or indices such as "0,1"',
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    num_machines: Annotated[int, Field(ge=1)] = key(
        1,
        "Machines that train together.",
        env="ACCELERATE_NUM_MACHINES",
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    machine_rank: Annotated[int, Field(ge=0)] = key(
        0,
        "Which of the machines this one is.",
        env="ACCELERATE_MACHINE_RANK",
        group="Machines",
        honoured_by=EVERYWHERE,
        needs=_SEVERAL_MACHINES,
    )
    main_process_ip: str | None = key(
        None,
        "Address of machine 0, for several machines.",
        possible="a host or address",
        group="Machines",
        honoured_by=EVERYWHERE,
        needs=_SEVERAL_MACHINES,
    )
    main_process_port: Annotated[int, Field(ge=0, le=65535)] | None = key(
        None,
        "Port on machine 0, for several machines; one machine needs none.",
        possible="a port from 0 to 65535",
        group="Machines",
        honoured_by=EVERYWHERE,
        needs=_SEVERAL_MACHINES,
    )
    same_network: bool = key(
        False,
        "Whether the machines reach each other directly; else they meet at machine 0 by rdzv_backend.",
        group="Machines",
        honoured_by=("torchrun",),
        needs=_SEVERAL_MACHINES,
    )
    rdzv_backend: Literal["static", "c10d", "etcd", "etcd-v2"] = key(
        "static",
        "How the machines find each other.",
        group="Machines",
        honoured_by=("torchrun",),
        needs=_SEVERAL_MACHINES,
    )
    rdzv_conf: Annotated[str, Field(pattern=_PAIRS)] | None = key(
        None,
        "Further settings of the meeting, such as timeout=900.",
        possible="key=value,key=value",
        group="Machines",
        honoured_by=("torchrun",),
        needs=_SEVERAL_MACHINES,
    )
    enable_cpu_affinity: bool = key(
        False,
        "Keep each worker on cores of its own, near its GPU where that is known.",
        env="ACCELERATE_CPU_AFFINITY",
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    num_cpu_threads_per_process: Annotated[int, Field(ge=1)] | None = key(
        None,
        "Threads of torch's CPU operators in each worker; left out: usable cores by workers.",
        possible="a whole number from 1",
        group="Machines",
        honoured_by=EVERYWHERE,
    )
    mpirun_config: MpirunConfig = key(MpirunConfig(), "mpirun's settings.", group="MPI", honoured_by=("mpirun",))

    # how workers start and end

    start_method: StartMethod = key(
        "zygote",
        "How workers start: zygote (a warm server forks them), spawn (fresh interpreters), fork (copies of the kernel) "
        "or inline (in the kernel itself).",
        group="Start",
        honoured_by=IN_NOTEBOOKS,
    )
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = key(
        None,
        "Seconds after which the whole run is stopped; left out: never.",
        possible="seconds, a number above 0",
        group="Start",
        honoured_by=("zygote", "spawn", "fork", "torchrun"),
    )
    hang_after: Annotated[float, Field(ge=0, allow_inf_nan=False)] = key(
        60.0,
        "Seconds in one collective operation after which the cell shows who waits for whom; 0 for never.",
        possible="seconds, a number from 0",
        group="Start",
        honoured_by=("zygote", "spawn", "fork"),
    )
    max_restarts: Annotated[int, Field(ge=0)] = key(
        0,
        "How often a failed run is started again with fresh workers.",
        group="Start",
        honoured_by=("zygote", "spawn", "fork", "torchrun"),
    )
    monitor_interval: Annotated[float, Field(gt=0, allow_inf_nan=False)] = key(
        0.1, "Seconds between two looks at the workers.", group="Start", honoured_by=("torchrun",)
    )
    role: str = key("default", "Name of the workers' role.", group="Start", honoured_by=("torchrun",))
    main_training_function: str = key(
        "main", "The script's function that trains.", group="TPU", honoured_by=("xla",), needs=_ON_TPU["needs"]
    )

    # what is seen of it

    output: OutputMode = key(
        "auto",
        "Whose text the cell shows: auto (rank 0, and what others print differently), all or ranks (labelled), main.",
        group="Output",
        honoured_by=IN_NOTEBOOKS,
    )
    monitor: MonitorMode = key(
        "auto",
        "Whether the cell shows a monitor of the run (state, progress, curves, devices, output by rank, buttons): auto "
        "(where ipywidgets is, once a run has taken 2 s), always (in a terminal as text, at the end), never.",
        group="Output",
        honoured_by=("zygote", "spawn", "fork"),
    )
    tee: Annotated[Annotated[str, Field(pattern=_TEE)] | None, BeforeValidator(_digit)] = key(
        None,
        "Streams that are shown and written to log_dir: 0 none, 1 stdout, 2 stderr, 3 both.",
        more_flags=("-t",),
        possible="0, 1, 2, 3, or rank:number pairs",
        group="Output",
        honoured_by=("torchrun",),
    )
    log_dir: str | None = key(
        None, "Folder for the ranks' streams.", possible="a folder", group="Output", honoured_by=("torchrun",)
    )
    debug: bool = key(
        False,
        "Compare the shapes of all ranks before each collective operation.",
        env="ACCELERATE_DEBUG_MODE",
        group="Output",
        honoured_by=EVERYWHERE,
    )
    sync_models: bool = key(
        True,
        "Copy trained parameters and buffers back into the kernel's modules after a successful run.",
        group="Output",
        honoured_by=("zygote", "spawn", "fork"),
    )

    # how it trains

    mixed_precision: Precision = key(
        "no",
        "Number format of the forward pass: no (float32), bf16, fp16 (with a loss scaler), fp8.",
        env="ACCELERATE_MIXED_PRECISION",
        possible="no, bf16, fp16, fp8",
        group="Training",
        honoured_by=(*EVERYWHERE, "ddp", "fsdp", "xla"),
    )
    downcast_bf16: bool = key(
        False,
        "On a TPU with bf16: make float64 float32 and float32 bfloat16.",
        env="ACCELERATE_DOWNCAST_BF16",
        group="TPU",
        honoured_by=("xla",),
        needs=_ON_TPU["needs"],
    )
    xla_spmd: bool | None = key(
        None,
        "One process drives all TPU chips, and XLA cuts tensors among them (SPMD); left out: as the chips need.",
        env="NBACCEL_XLA_SPMD",
        group="TPU",
        honoured_by=("zygote", "spawn", "fork", "torchrun", "xla"),
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = key(
        1,
        "Micro-batches whose gradients are added up before the optimizer steps.",
        env="ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        group="Training",
        honoured_by=EVERYWHERE,
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = key(
        None,
        "Seed of Python's, numpy's and torch's generators in every worker; left out: as in the kernel.",
        possible="a whole number from 0 to 2**32 - 1",
        group="Training",
        honoured_by=("zygote", "spawn", "fork"),
    )
    step_scheduler_with_optimizer: bool = key(
        True, "Move schedulers with the optimizer, once per process.", group="Training", honoured_by=EVERYWHERE
    )
    params: dict[str, Any] = key(
        {},
        "Parameters of the training function or cell.",
        possible="a mapping",
        group="Training",
        honoured_by=EVERYWHERE,
    )
    dataloader_config: DataloaderConfig = key(DataloaderConfig(), "Data.", group="Data", honoured_by=EVERYWHERE)
    gradient_accumulation_config: GradientAccumulationConfig = key(
        GradientAccumulationConfig(), "Accumulation.", group="Training", honoured_by=EVERYWHERE
    )
    autocast_config: AutocastConfig = key(AutocastConfig(), "Autocast.", group="Training", honoured_by=EVERYWHERE)
    grad_scaler_config: GradScalerConfig = key(
        GradScalerConfig(), "fp16's scaler.", group="Training", honoured_by=EVERYWHERE
    )
    ddp_config: DdpConfig = key(DdpConfig(), "DDP.", group="DDP", honoured_by=("ddp",))
    process_group_config: ProcessGroupConfig = key(
        ProcessGroupConfig(), "The process group.", group="Machines", honoured_by=EVERYWHERE
    )
    fsdp_config: FsdpConfig = key(
        FsdpConfig(), "FSDP.", group="FSDP", honoured_by=("fsdp",), needs=("distributed_type", ("FSDP",))
    )
    parallelism_config: ParallelismConfig = key(
        ParallelismConfig(), "Sizes of the device mesh.", group="Parallelism", honoured_by=("fsdp",)
    )
    deepspeed_config: DeepSpeedConfig = key(
        DeepSpeedConfig(),
        "DeepSpeed.",
        group="DeepSpeed",
        honoured_by=("deepspeed",),
        needs=("distributed_type", ("DEEPSPEED",)),
    )
    megatron_lm_config: MegatronLmConfig = key(
        MegatronLmConfig(),
        "Megatron-LM.",
        group="Megatron-LM",
        honoured_by=("megatron_lm",),
        needs=("distributed_type", ("MEGATRON_LM",)),
    )
    fp8_config: Fp8Config = key(
        Fp8Config(), "8-bit floats.", group="FP8", honoured_by=("fp8",), needs=("mixed_precision", ("fp8",))
    )
    dynamo_config: DynamoConfig = key(DynamoConfig(), "torch.compile.", group="Compilation", honoured_by=EVERYWHERE)

    # what it leaves behind

    project_dir: str | None = key(
        None, "Folder for checkpoints and logs.", possible="a folder", group="Project", honoured_by=EVERYWHERE
    )
    project_name: str | None = key(
        None, "Name under which trackers file the run.", group="Project", honoured_by=EVERYWHERE
    )
    run_dir: str | None = key(
        None,
        "Folder of one run, for its snapshot; left out: project_dir/runs/<time>.",
        possible="a folder",
        group="Project",
        honoured_by=EVERYWHERE,
    )
    log_with: Names = key(
        (),
        "Trackers to log with.",
        possible="names such as tensorboard, wandb, notebook, or all",
        group="Project",
        honoured_by=EVERYWHERE,
    )
    project_config: ProjectConfig = key(ProjectConfig(), "Checkpoints.", group="Project", honoured_by=EVERYWHERE)
    profile: str | None = key(
        None,
        "Overlay over the project file: the file .accelerate/<profile>.yaml.",
        possible="the name of a file beside the project file",
        group="Project",
        honoured_by=EVERYWHERE,
    )

    # TPU pods

    tpu_name: str | None = key(None, "Name of the TPU.", **_ON_TPU)
    tpu_zone: str | None = key(None, "Zone of the TPU.", **_ON_TPU)
    tpu_use_cluster: bool = key(False, "Train on a pod.", flag="--tpu-cluster", **_ON_TPU)
    tpu_use_sudo: bool = key(False, "Use sudo on the pod's machines.", **_ON_TPU)
    tpu_vm: Lines | None = key(None, "The pod's machines.", flag="--vm", possible=_TEXTS, **_ON_TPU)
    tpu_env: Lines | None = key(
        None, "Variables for the pod's machines, NAME=value.", flag="--env", possible=_TEXTS, **_ON_TPU
    )
    command_file: str | None = key(None, "File of commands for `tpu-config`.", possible="a file", **_ON_TPU)
    commands: Lines | None = key(None, "Commands for `tpu-config`.", flag="--command", possible=_TEXTS, **_ON_TPU)

    # SageMaker

    ec2_instance_type: str | None = key(None, "SageMaker's instance type.", **_ON_SAGEMAKER)
    iam_role_name: str | None = key(None, "SageMaker's IAM role.", **_ON_SAGEMAKER)
    image_uri: str | None = key(None, "SageMaker's container image.", **_ON_SAGEMAKER)
    aws_profile: str | None = key(None, "The AWS profile; files of Accelerate call it `profile`.", **_ON_SAGEMAKER)
    region: str | None = key(None, "The AWS region.", **_ON_SAGEMAKER)
    base_job_name: str | None = key(None, "SageMaker's job name.", **_ON_SAGEMAKER)
    pytorch_version: str | None = key(None, "SageMaker's torch.", **_ON_SAGEMAKER)
    transformers_version: str | None = key(None, "SageMaker's transformers.", **_ON_SAGEMAKER)
    py_version: str | None = key(None, "SageMaker's Python.", **_ON_SAGEMAKER)
    sagemaker_inputs_file: str | None = key(None, "SageMaker's inputs.", possible="a file", **_ON_SAGEMAKER)
    sagemaker_metrics_file: str | None = key(None, "SageMaker's metrics.", possible="a file", **_ON_SAGEMAKER)
    additional_args: dict[str, Any] | None = key(None, "SageMaker's further arguments.", **_ON_SAGEMAKER)
    aws_access_key_id: str | None = key(None, "AWS access key.", env="AWS_ACCESS_KEY_ID", secret=True, **_ON_SAGEMAKER)
    aws_secret_access_key: str | None = key(
        None, "AWS secret key.", env="AWS_SECRET_ACCESS_KEY", secret=True, **_ON_SAGEMAKER
    )
