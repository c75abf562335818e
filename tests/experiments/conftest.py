import pytest
import torch

from experiments.first_stage.slim import blocks_of
from proposals.centerface import CenterFaceNetwork
from tinygan.models.centerface import WIDTHS

WIDE = tuple(width // 2 for width in WIDTHS)
NARROW = tuple(width // 3 for width in WIDTHS)


@pytest.fixture
def whole():
    """A network whose answer depends on every block."""
    torch.manual_seed(0)
    network = CenterFaceNetwork(WIDE).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                torch.nn.init.kaiming_normal_(tensor)
            else:
                tensor.fill_(1)  # few channels are dead
        for block in blocks_of(network):
            block.body[-1].weight.mul_(0.3)
        network.heads.weight.mul_(0.01)
    return network
