"""The environment of a job's process: it is a single one, whatever has started the study."""

from collections.abc import Mapping

import torch

from diffpo.core.parent import child_environment
from diffpo.distributed.process import current_process, without_ranks

DEVICES = "CUDA_VISIBLE_DEVICES"


def job_environment() -> dict[str, str]:
    """Return the environment for a job that ends with this process and, where there are several, has its GPU."""
    process, environment = current_process(), child_environment()
    if process.world_size == 1:
        return environment
    return with_own_device(without_ranks(environment), process.local_rank, torch.cuda.device_count())


def with_own_device(environment: Mapping[str, str], local_rank: int, num_devices: int) -> dict[str, str]:
    """Return the environment with one visible GPU of the `num_devices` that are; they are given out in turn."""
    if num_devices == 0:
        return dict(environment)
    visible = environment[DEVICES].split(",") if environment.get(DEVICES) else [str(i) for i in range(num_devices)]
    return {**environment, DEVICES: visible[local_rank % num_devices]}
