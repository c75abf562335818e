import numpy as np
import pytest
from PIL import Image
from skimage import data


@pytest.fixture(scope="session")
def astronaut():
    """scikit-image's astronaut, 64 px wide, and where her face is."""
    picture = Image.fromarray(data.astronaut()).resize((64, 64), Image.Resampling.BICUBIC)
    return picture, np.array([[22.4, 6.8, 33.8, 22.2]])
