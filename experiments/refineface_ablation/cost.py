"""Parameters, arithmetic and time of RetinaNet and RefineFace for all backbones (Zhang et al. 2019, Table 9).

    python -m experiments.refineface_ablation.cost [--width 640 --height 480] [--time] [--threads 1]

Takes seconds without ``--time``. Time is that of the network as it is used, with batch normalisation folded, and as it
was trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from proposals.backbones import BackboneName
from proposals.mb_fcn import MbFcnConfig, MbFcnNetwork
from proposals.refineface import RefineFaceConfig, RefineFaceNetwork
from tinygan.models.folding import fold_batch_norm
from tinygan.runtime import Runtime, RuntimeOptions

USED = RefineFaceConfig(fsm=False)  # as it is used: without the supervision of regions
PLAIN = replace(USED, str_levels=(), stc_levels=(), rfe=False)
RESNETS: tuple[BackboneName, ...] = ("resnet18", "resnet50", "resnet101", "resnet152")
NETWORKS: Mapping[str, RefineFaceConfig | MbFcnConfig] = {
    "RetinaNet, resnet50": PLAIN,
    "+ STR": replace(PLAIN, str_levels=USED.str_levels),
    "+ STC": replace(PLAIN, stc_levels=USED.stc_levels),
    "+ RFE": replace(PLAIN, rfe=True),
    **{f"RefineFace, {name}": replace(USED, backbone=name) for name in RESNETS},
    "RetinaNet, resnet18, 64 channels": replace(PLAIN, backbone="resnet18", channels=64),
    "RefineFace, resnet18, 64 channels": replace(USED, backbone="resnet18", channels=64),
    "RetinaNet, mobilenet025, 32 channels, depth 2": replace(
        PLAIN, backbone="mobilenet025", channels=32, subnet_depth=2
    ),
    "RefineFace, mobilenet025, 32 channels": replace(USED, backbone="mobilenet025", channels=32),
    "MB-FCN, resnet50": MbFcnConfig(),
    "MB-FCN, mobilenet025, 32 and 64 channels": MbFcnConfig(backbone="mobilenet025", skip_channels=32, channels=64),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--width", type=int, default=640)
    add("--height", type=int, default=480)
    add("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    add("--time", action="store_true", help="also measure ms per picture")
    add("--repeats", type=int, default=3, help="the least time of so many counts")
    add("--threads", type=int)
    arguments = parser.parse_args(argv)
    runtime = Runtime(RuntimeOptions(device="cpu", precision="32", threads=arguments.threads))
    picture = torch.zeros(1, 3, arguments.height, arguments.width)
    timed = " ms folded | ms as trained |" if arguments.time else ""
    print(f"| network | M parameters | GFLOP at {arguments.width}x{arguments.height} |{timed}")
    print(f"|---|---|---|{'---|---|' if arguments.time else ''}")
    for name in arguments.networks:
        network = build(NETWORKS[name])
        cells = [name, f"{millions(network):.2f}", f"{giga_flops(network, picture):.1f}"]
        if arguments.time:
            runtime.place(network)
            trained = milliseconds(network, picture, arguments.repeats)
            folded = milliseconds(fold_batch_norm(network), picture, arguments.repeats)
            cells += [f"{folded:,.0f}", f"{trained:,.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def build(config: RefineFaceConfig | MbFcnConfig) -> nn.Module:
    """The network with random weights, for inference."""
    return (MbFcnNetwork(config) if isinstance(config, MbFcnConfig) else RefineFaceNetwork(config)).eval()


def millions(network: nn.Module) -> float:
    """Number of parameters in millions."""
    return sum(one.numel() for one in network.parameters()) / 1e6


@torch.inference_mode()
def giga_flops(network: nn.Module, picture: torch.Tensor) -> float:
    """Arithmetic of a picture [1, 3, H, W]: a multiplication and an addition count as two. Nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        deepcopy(network).to("meta")(picture.to("meta"))
    return float(counter.get_total_flops()) / 1e9


@torch.inference_mode()
def milliseconds(network: nn.Module, picture: torch.Tensor, repeats: int) -> float:
    """Least CPU time of a picture [1, 3, H, W]; other work on the machine tells little."""
    spent = []
    for _ in range(repeats + 1):  # the first one warms up
        started = time.process_time()
        network(picture)
        spent.append(time.process_time() - started)
    return 1000 * min(spent[1:])


if __name__ == "__main__":
    raise SystemExit(main())
