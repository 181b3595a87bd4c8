"""The hash of the code behind a number: what counts in it, and what does not."""

import shutil

import pytest

from companion import codehash
from companion.codehash import code_hash, covered
from companion.systems import SYSTEMS, code_of

CODE = '''"""A module."""
import math
from pathlib import Path

from .other import half, unused

FACTOR = 2
NAMES = ("a",)


def double(x: float, *, loud: bool = False) -> float:
    """Twice x."""
    if x < 0:
        raise ValueError(f"negative: {x}")
    try:
        y = FACTOR * x
    except TypeError as error:
        raise ValueError("no number") from error
    if loud:  # a remark
        y = y + half(x)
    return math.floor(y)


class Doubler:
    """Doubles."""

    size: int = 3

    def double(self, x):
        """Twice x."""
        return double(x, loud=True) * self.size
'''
OTHER = """
def half(x):
    return x / 2


def unused(x):
    return x
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of two modules whose texts may be changed, and the hash of `flowsep.one:Doubler` there."""
    monkeypatch.setattr(codehash, "ROOT", tmp_path)
    (tmp_path / "flowsep").mkdir()

    def hashed(one: str = CODE, other: str = OTHER, module: str = "other", place: str = "flowsep.one:Doubler") -> str:
        codehash._module.cache_clear()
        shutil.rmtree(tmp_path / "flowsep")
        (tmp_path / "flowsep").mkdir()
        (tmp_path / "flowsep" / "one.py").write_text(one)
        (tmp_path / "flowsep" / f"{module}.py").write_text(other)
        return code_hash(place)

    yield hashed
    codehash._module.cache_clear()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Twice x.", "x + x."),
        ("  # a remark", ""),
        ("def double(x: float, *, loud: bool = False) -> float:", "def double(\n    x, *, loud=False\n):"),
        ("import math\n", "import math\nimport os\n"),
        ('f"negative: {x}"', '"below zero"'),
        ("    if x < 0:\n        raise", "    if x <= 0:\n        raise"),
        ('"no number"', '"other words"'),
        ("FACTOR", "TIMES"),
        ('NAMES = ("a",)', 'NAMES = ("b",)'),
    ],
)  # fmt: skip
def test_what_moves_no_number_does_not_count(old, new, project):
    assert old in CODE
    assert project(CODE.replace(old, new)) == project()


def test_a_variable_may_get_another_name(project):
    """But not one that stands for something else."""
    renamed = CODE.replace("y = ", "result = ").replace(" = y +", " = result +").replace("floor(y)", "floor(result)")
    assert renamed != CODE
    assert project(renamed) == project()
    assert project(CODE.replace("floor(y)", "floor(x)")) != project()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "FACTOR = 3"),
        ("FACTOR * x", "FACTOR + x"),
        ("loud=True", "loud=False"),
        ("loud: bool = False", "loud: bool = True"),
        ("size: int = 3", "size: int = 4"),
        ("size: int = 3", "size: float = 3"),
        ("    def double(self", "    def twice(self"),
        ("y = y + half(x)\n    return", "y = y + half(x)\n        return"),
        ("math.floor", "math.ceil"),
        ("half(x)", "half(y)"),
    ],
)
def test_what_may_change_a_number_counts(old, new, project):
    assert old in CODE
    assert project(CODE.replace(old, new)) != project()


def test_code_is_followed_wherever_it_lies(project):
    """Another module, the same file, or another name: the same hash. Another content there: another hash."""
    before = project()
    assert project(CODE.replace(".other", ".elsewhere"), module="elsewhere") == before
    assert project(CODE.replace("from .other import half, unused", OTHER)) == before
    assert project(CODE.replace("half", "part"), OTHER.replace("half", "part")) == before
    assert project(other=OTHER.replace("return x\n", "return 2 * x\n")) == before  # unused
    assert project(other=OTHER.replace("x / 2", "x / 3")) != before


def test_definitions_that_call_each_other_have_a_hash(project):
    ping = "def ping(x):\n    return pong(x - 1) if x else 0\n\n\ndef pong(x):\n    return ping(x - 1) if x else 1\n"
    assert project(ping, place="flowsep.one:ping") != project(
        ping.replace("else 1", "else 2"), place="flowsep.one:ping"
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the packages: `edit(file, old, new)` changes it, and names the systems whose hash that changes."""
    root = tmp_path_factory.mktemp("copy")
    for package in codehash.PACKAGES:
        shutil.copytree(codehash.ROOT / package, root / package)

    def hashes() -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codehash, "ROOT", root)
            codehash._module.cache_clear()
            try:
                return {name: code_of(name) for name in SYSTEMS}
            finally:
                codehash._module.cache_clear()

    before = hashes()

    def edit(*edits: tuple[str, str, str]) -> set[str]:
        texts = {root / file: (root / file).read_text() for file, _, _ in edits}
        for file, old, new in edits:
            text = (root / file).read_text()
            assert old in text
            (root / file).write_text(text.replace(old, new))
        after = hashes()
        for path, text in texts.items():
            path.write_text(text)
        return {name for name in SYSTEMS if after[name] != before[name]}

    return edit


FLOWS = {"instglow", "flowsep"}
SUPERVISED = {"demucs_v2", "conv_tasnet", "open_unmix", "open_unmix_random", "wave_u_net"}
PRETRAINED = {"demucs_v2_pretrained", "open_unmix_pretrained"}  # of the classes of those that are trained here
TRAINED = FLOWS | {"gan_prior"} | SUPERVISED | PRETRAINED
STREAMED = FLOWS | {"nmf", "gan_prior", "hpss"}  # by masks on a stream
MASKED = STREAMED | {"ideal_ratio_mask"}
TRANSFORMED = MASKED | {"multichannel_wiener", "open_unmix", "open_unmix_random", "open_unmix_pretrained"}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("flowsep/search.py", "FLOOR = 1e-8", "FLOOR = 1e-7", MASKED),
        ("flowsep/search.py", "- target + estimate", "- estimate + target", FLOWS),
        ("flowsep/search.py", "loss = loss + config.alpha", "loss = loss - config.alpha", FLOWS),
        ("flowsep/glow.py", "torch.tanh(a)", "torch.sin(a)", FLOWS),
        ("flowsep/fast/net.py", "t.mul_(2)", "t.mul_(3)", FLOWS),
        ("flowsep/separator.py", "self.flows.pad(mixture)", "self.flows.pad(2 * mixture)", FLOWS),
        ("flowsep/separator.py", "start : start + stem.shape[1]", "start + 1 : start + 1 + stem.shape[1]", STREAMED),
        ("flowsep/stream.py", "(top / top.sum(dim=0))", "(top / top.amax(dim=0))", STREAMED),
        ("flowsep/spectrogram.py", "torch.hann_window", "torch.hamming_window", TRANSFORMED),
        ("flowsep/train.py", "optimizer, step, training.clip)", "optimizer, step, 2 * training.clip)", TRAINED),
        ("flowsep/train.py", "-> float:\n        total = sum(", "-> float:\n        total = max(", FLOWS),
        ("companion/systems/supervised.py", "torch.manual_seed", "torch.cuda.manual_seed", SUPERVISED | PRETRAINED),
        ("companion/systems/specgan.py", "DEVIATIONS = 3.0", "DEVIATIONS = 4.0", {"gan_prior"}),
        ("companion/systems/wave_u_net.py", "0.2)", "0.1)", {"wave_u_net"}),
        ("companion/systems/nmf.py", "1e-", "2e-", {"nmf"}),
        ("companion/scores/metrics.py", "10 * np.log10", "20 * np.log10", set(SYSTEMS)),
    ],
)
def test_a_change_makes_the_rows_stale_that_it_may_move_and_no_others(file, old, new, changed, copy):
    assert copy((file, old, new)) == changed


def test_reading_showing_and_messages_make_no_row_stale(copy):
    assert (
        copy(
            ("flowsep/search.py", "separation diverged (loss", "the search diverged (loss"),
            ("flowsep/weights.py", "damaged since it was written", "not what was written"),
            ("flowsep/research_checkpoint.py", 'removeprefix("module.")', 'removeprefix("model.")'),
            ("flowsep/checkpoint.py", "return files | folders", "return folders | files"),
            ("flowsep/audio.py", "BLOCK = 2**17", "BLOCK = 2**16"),
            ("companion/show/score_plots.py", "def ", "def other_"),
            ("companion/band/composer.py", "0.5", "0.25"),
            ("companion/tables/aggregate.py", "median", "mean"),
            ("companion/studies/ablation.py", "def follow", "def pursue"),
        )
        == set()
    )


def test_a_system_of_ones_own_hangs_on_its_file(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text("x = 1")
    before = code_of("mine", {"class": f"{own}:Mine"})
    codehash._module.cache_clear()
    own.write_text("x = 2")
    assert code_of("mine", {"class": f"{own}:Mine"}) != before


def test_each_system_hangs_on_its_own_code():
    hashes = {name: code_of(name) for name in SYSTEMS}
    assert len(set(hashes.values())) == len(SYSTEMS)


def test_modules_that_show_numbers_do_not_make_them():
    names = covered(f"companion.systems.{SYSTEMS['flowsep']}")
    assert {"Separator", "search", "train_source", "optimise", "Glow", "solo_segments", "StackedFlows"} <= names
    assert not {"write_scores", "read_audio", "ensure_band", "spectrogram", "StemPlayer", "tables", "main"} & names
    assert not {"load_prior", "in_plain_order", "load_research_prior", "read_safetensors", "choose_device"} & names
