import pytest
from PIL import Image
from skimage import data


@pytest.fixture(scope="session")
def photograph():
    """scikit-image's astronaut, as it comes."""
    return Image.fromarray(data.astronaut())
