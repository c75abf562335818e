import numpy as np
import pytest
import torch
from PIL import Image

from tinygan.data.crops import CropConfig
from tinygan.judge import Judge, Request, fold_batch_norm, judge_images
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.runtime import Runtime, RuntimeOptions

CROPS = CropConfig(lr_size=8)
RUNTIME = RuntimeOptions(device="cpu", precision="32")


@pytest.fixture
def judge():
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(width=4, up_width=4, residual_blocks=1, refine_width=4, refine_up_width=4, refine_blocks=1)
    )
    config = DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(4, 4, 4, 4, 4), fc_std=1.0)
    return Judge(generator, Discriminator(config, CROPS.hr_size), CROPS, Runtime(RUNTIME))


@pytest.fixture
def requests(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)
        corner = rng.uniform(0, 50, (number * 4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(3, 25, (number * 4, 1))], axis=1)
        made.append(Request(str(number), path, boxes))
    return made


def test_batch_norm_folding_changes_nothing():
    torch.manual_seed(0)
    network = Generator(
        GeneratorConfig(width=4, up_width=4, residual_blocks=1, refine_width=4, refine_up_width=4, refine_blocks=1)
    )
    network.train()(torch.rand(16, 3, 8, 8))  # gives BN other statistics than (0, 1)
    lr = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        before = network.eval()(lr).refined
        after = fold_batch_norm(network)(lr).refined
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert torch.allclose(before, after, atol=1e-5)


def test_answers_come_in_order_and_do_not_depend_on_batching(judge, requests):
    one = list(judge_images(judge, requests, batch_size=3))
    many = list(judge_images(judge, requests, batch_size=1000, workers=1))
    assert [a.name for a in one] == ["0", "1", "2", "3", "4"] and [len(a.face_logits) for a in one] == [0, 4, 8, 12, 16]
    for a, b in zip(one, many, strict=True):
        assert a.face_logits == pytest.approx(b.face_logits, abs=1e-5)
        assert a.real_logits == pytest.approx(b.real_logits, abs=1e-5)


def test_each_box_gets_its_own_logit(judge, requests):
    request = requests[4]
    together = next(iter(judge_images(judge, [request], 64))).face_logits
    assert len(np.unique(together.round(6))) > 8
    for row in (0, 7, 15):
        alone = next(iter(judge_images(judge, [Request("x", request.image, request.boxes[row : row + 1])], 64)))
        assert alone.face_logits[0] == pytest.approx(together[row], abs=1e-5)


def test_unreadable_image_is_an_answer_not_a_crash(judge, requests):
    requests[2].image.write_bytes(requests[2].image.read_bytes()[:200])
    answers = list(judge_images(judge, requests, 8))
    assert [a.error is not None for a in answers] == [False, False, True, False, False]
    assert "2.png: expected a readable image" in answers[2].error and len(answers[2].face_logits) == 0
    assert len(answers[4].face_logits) == 16


def test_no_requests(judge):
    assert list(judge_images(judge, [], 8)) == []
    small, large = judge.judge(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8))
    assert len(small.face) == len(large.face) == 0
