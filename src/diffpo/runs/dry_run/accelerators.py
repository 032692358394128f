"""Named accelerators: what their vendors say that they compute, read and send, and how much of that is reached."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggestion

PRODUCT_SHARE = 0.5
"""Of a vendor's peak, the share that matrix products are assumed to reach. No GPU was measured."""
MEMORY_SHARE = 0.8
"""The same of the memory's bandwidth."""
LINK_SHARE = 0.8
"""The same of a link's bandwidth."""
TERA, GIGA = 1e12, 1e9
Number = int | float


@dataclass(frozen=True)
class Accelerator:
    """What one device reaches: FLOP/s of products by dtype, bytes/s of its memory and links, and fixed times."""

    name: str
    bfloat16: Number
    """FLOP/s of bfloat16 matrix products, dense."""
    float32: Number
    """FLOP/s of float32 matrix products, without TF32, which torch does not use unless told."""
    memory_bandwidth: Number
    """Bytes/s."""
    memory: Number
    """GiB."""
    link: Number
    """Bytes/s from a device to another of its node, in one direction."""
    network: Number
    """Bytes/s from a device to another node, in one direction."""
    source: str
    """Where the figures are from."""
    is_measured: bool = False
    """Whether rates were measured; else they are a vendor's, times a stated share."""
    attention: Number | None = None
    """FLOP/s of attention's products, where they were measured apart; None: those of other products."""
    operator_seconds: Number = 5e-6
    """Time of an operator on tensors so small that only its start counts."""
    latency: Number = 1e-5
    """Time of one hop of a collective call."""

    def rate(self, width: int) -> Number:
        """Return the FLOP/s of products of numbers of `width` bytes."""
        return self.bfloat16 if width == 2 else self.float32


def _sheet(
    name: str,
    *,
    bfloat16: Number,
    float32: Number,
    memory_bandwidth: Number,
    memory: Number,
    link: Number,
    network: Number,
    source: str,
) -> Accelerator:
    """Return an accelerator from a vendor's figures: TFLOP/s, GB/s of the memory and of links, and GiB."""
    return Accelerator(
        name,
        bfloat16 * TERA * PRODUCT_SHARE,
        float32 * TERA * PRODUCT_SHARE,
        memory_bandwidth * GIGA * MEMORY_SHARE,
        memory,
        link * GIGA * LINK_SHARE,
        network * GIGA * LINK_SHARE,
        source,
    )


_SHEETS = (
    _sheet(
        "a100",
        bfloat16=312,
        float32=19.5,
        memory_bandwidth=2039,
        memory=80,
        link=300,
        network=25,
        source="SXM 80 GB: https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
        "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf; 200 Gb/s a GPU as in DGX A100",
    ),
    _sheet(
        "h100",
        bfloat16=989,
        float32=67,
        memory_bandwidth=3350,
        memory=80,
        link=450,
        network=50,
        source="SXM: https://www.nvidia.com/en-us/data-center/h100/; 400 Gb/s a GPU as in DGX H100",
    ),
    _sheet(
        "h200",
        bfloat16=989,
        float32=67,
        memory_bandwidth=4800,
        memory=141,
        link=450,
        network=50,
        source="SXM: https://www.nvidia.com/en-us/data-center/h200/; 400 Gb/s a GPU as in DGX H200",
    ),
    _sheet(
        "b200",
        bfloat16=2250,
        float32=75,
        memory_bandwidth=8000,
        memory=180,
        link=900,
        network=50,
        source="https://www.nvidia.com/en-us/data-center/hgx/; 180 GB and 400 Gb/s a GPU: "
        "https://docs.nvidia.com/dgx/dgxb200-user-guide/introduction-to-dgxb200.html",
    ),
    _sheet(
        "l40s",
        bfloat16=362,
        float32=91.6,
        memory_bandwidth=864,
        memory=48,
        link=32,
        network=25,
        source="https://www.nvidia.com/en-us/data-center/l40s/; PCIe 4; 200 Gb/s a GPU between nodes is assumed",
    ),
    _sheet(
        "rtx4090",
        bfloat16=165.2,
        float32=82.6,
        memory_bandwidth=1008,
        memory=24,
        link=32,
        network=12.5,
        source="https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf; PCIe 4; "
        "100 Gb/s a GPU between nodes is assumed",
    ),
)
ACCELERATORS: Mapping[str, Accelerator] = {sheet.name: sheet for sheet in _SHEETS}
"""NVLink's 600, 900 and 1800 GB/s count both directions; here they count one. Peaks are without sparsity."""
CPU = "cpu"
"""The name under which this machine is measured (`diffpo.runs.dry_run.measure`)."""


def named_accelerator(name: str) -> Accelerator:
    """Return the accelerator of this name. Raises UserError for one that is not in the table."""
    if name not in ACCELERATORS:
        known = (*ACCELERATORS, CPU)
        raise UserError(
            f"no accelerator is called {name!r}{suggestion(name, known)}; known are {', '.join(known)}, and "
            "--tflops, --memory-bandwidth and --link-bandwidth describe another one"
        )
    return ACCELERATORS[name]


def with_rates(
    accelerator: Accelerator, tflops: Number | None, memory_bandwidth: Number | None, link_bandwidth: Number | None
) -> Accelerator:
    """Return the accelerator with rates that were measured in place of its own, unless they are None.

    They are the TFLOP/s of products and GB/s of the memory and of links, which are then taken as they are. Raises
    UserError for one that is not above 0.
    """
    given = {"--tflops": tflops, "--memory-bandwidth": memory_bandwidth, "--link-bandwidth": link_bandwidth}
    for option, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option} {value:g} is no rate; give a number above 0")
    if tflops is not None:
        accelerator = replace(accelerator, bfloat16=tflops * TERA, float32=tflops * TERA)
    if memory_bandwidth is not None:
        accelerator = replace(accelerator, memory_bandwidth=memory_bandwidth * GIGA)
    if link_bandwidth is not None:
        accelerator = replace(accelerator, link=link_bandwidth * GIGA, network=link_bandwidth * GIGA)
    is_given = tflops is not None and memory_bandwidth is not None
    return replace(accelerator, is_measured=accelerator.is_measured or is_given)
