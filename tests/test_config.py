from dataclasses import dataclass, field
from typing import Literal

import pytest

from tinygan.config import attribute_docs, build_config, explain, load_config, presets_for, to_tree, to_yaml
from tinygan.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 8
    rate: float = 0.1
    kind: Literal["bicubic", "none"] = "bicubic"
    sizes: tuple[int, ...] = (1, 2)
    gate: float | None = None
    on: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    seed: int = 0


def test_defaults_then_file_then_set(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("inner: {width: 4, rate: 1e-4}\nseed: 3\n")
    config = load_config(Outer, file, ["inner.width=5"])
    assert (config.inner.width, config.inner.rate, config.seed) == (5, 1e-4, 3)
    assert load_config(Outer) == Outer()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("inner.rate=1e-4", 1e-4),  # which YAML reads as a string
        ("inner.rate=2", 2.0),
        ("inner.width=1e2", 100),
        ("inner.kind=none", "none"),
        ("inner.kind=off", "none"),  # which YAML reads as False
        ("inner.sizes=[3, 4]", (3, 4)),
        ("inner.sizes=3", (3,)),
        ("inner.gate=null", None),
        ("inner.gate=7", 7.0),
        ("inner.on=false", False),
    ],
)
def test_values_are_coerced_by_annotation(override, expected):
    value = getattr(load_config(Outer, None, [override]).inner, override.split(".")[1].split("=")[0])
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.widht=3", "--set inner.widht=3: unknown key 'inner.widht'; did you mean 'inner.width'"),
        ("nothing=1", "unknown key 'nothing'; known keys are inner, seed"),
        ("inner.width=wide", "'inner.width' is of type int, got 'wide'"),
        ("inner.width=2.5", "'inner.width' is of type int, got 2.5"),
        ("inner.width=true", "'inner.width' is of type int, got True"),
        ("inner.on=3", "'inner.on' is of type bool, got 3"),
        ("inner.kind=cubic", "'inner.kind' is one of bicubic, none; got 'cubic'"),
        ("inner.sizes=many", "'inner.sizes' is a list, got 'many'"),
        ("inner.sizes=true", "'inner.sizes' is a list, got True"),
        ("inner=3", "'inner' is a section with keys, got 3"),
        ("inner.width", "expected section.key=value"),
        ("inner.width=[", "the value is not YAML"),
        ("inner.width=0", r"\[inner\]: width must be at least 1, got 0"),
    ],
)
def test_mistakes_name_key_and_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, None, [override])


def test_bad_files(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--config light: no such file or preset; there are no presets of these settings"
    ):
        load_config(Outer, "light")
    file = tmp_path / "own.yaml"
    file.write_text("inner: {width: 4")
    with pytest.raises(ConfigError, match=r"own\.yaml: expected YAML"):
        load_config(Outer, file)
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected sections and keys, got list"):
        load_config(Outer, file)
    file.write_text("inner:\n  wdth: 3\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: unknown key 'inner\.wdth'"):
        load_config(Outer, file)
    file.write_text("")
    assert load_config(Outer, file) == Outer()


def test_round_trips(tmp_path):
    config = Outer(inner=Inner(sizes=(9,), gate=1.5, kind="none", on=False), seed=4)
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(Outer, tmp_path / "resolved.yaml") == config
    assert build_config(Outer, to_tree(config)) == config
    assert load_config(Outer, None, ["seed=5"], base=to_tree(config)).inner == config.inner


@pytest.mark.parametrize("preset", ["lite", "paper", "paper_wild"])
def test_presets_load(preset):
    from tinygan.training.recipe import Recipe

    assert load_config(Recipe, preset).losses.alpha == 0.001


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A config.

    Attributes:
        rate: ``0.5`` or ``None``: of :class:`~tinygan.models.build.Thing`, see
            :func:`tinygan.boxes.iou`; none: of nothing.
        inner: further
            keys.
        name: printed on one line, however long it is: a comment is wrapped at a hundred characters, and the rest of it
            comes below.

    Raises:
        ValueError: never.
    """

    rate: float = 0.5
    inner: Inner = field(default_factory=Inner)
    name: str | None = "a: b, [c]"
    unsaid: tuple[tuple[int, ...], ...] = ((1, 2), ())


def test_docs_are_plain_text():
    docs = attribute_docs(Explained)
    assert list(docs) == ["rate", "inner", "name"]
    assert docs["rate"] == "0.5 or null: of Thing, see tinygan.boxes.iou; none: of nothing."
    assert docs["inner"] == "further keys." and docs["name"].endswith("comes below.")
    assert attribute_docs(Inner) == {}


def test_an_explained_config_reads_back(tmp_path):
    config = load_config(Explained, None, ["inner.rate=1e-7", "inner.sizes=[]", "name=yes"])
    text = explain(config)
    assert text.startswith(
        "# 0.5 or null: of Thing, see tinygan.boxes.iou; none: of nothing.\nrate: 0.5\n# further keys.\ninner:\n"
    )
    assert "\n  sizes: []\n" in text and max(map(len, text.splitlines())) <= 100
    file = tmp_path / "own.yaml"
    for written in (config, Explained(), Explained(name=None)):
        file.write_text(explain(written))
        assert load_config(Explained, file) == written


@dataclass(frozen=True, kw_only=True)
class Optional:
    inner: Inner | None = None


def test_a_section_may_take_the_place_of_null():
    assert load_config(Optional, None, ["inner.width=3"], base={"inner": None}) == Optional(inner=Inner(width=3))


def test_presets_fit_by_their_keys():
    @dataclass(frozen=True)
    class Paper:
        crops: int = 0
        generator: int = 0
        discriminator: int = 0
        losses: int = 0
        mse_init: int = 0
        gan: int = 0

    assert list(presets_for(Paper)) == ["paper_wild"] and not presets_for(Outer)
    with pytest.raises(
        ConfigError, match="--config lite: this preset is of another command; presets that fit are paper_wild;"
    ):
        load_config(Paper, "lite")
