"""Excerpts on disk: what one job may read while others write beside it."""

import numpy as np
import pytest

from flowsep.audio import write_audio
from flowsep.files import FlowsepError, atomic_path
from flowsep.run import load_excerpt, load_excerpts

TONE = np.full((2, 800), 0.25, dtype=np.float32)


def test_half_written_excerpts_are_not_read(tmp_path):
    place = tmp_path / "audio" / "nmf" / "A song"
    write_audio(place / "bass.flac", TONE, 8000)
    with atomic_path(place / "drums.flac") as temporary:
        assert temporary.suffix == ".flac" and temporary.is_file()
        assert list(load_excerpt(tmp_path, "nmf", "A song")) == ["bass"]
        found, rate = load_excerpts(tmp_path)
        assert rate == 8000 and list(found["A song"]["nmf"]) == ["bass"]
        np.testing.assert_allclose(found["A song"]["nmf"]["bass"], TONE, atol=1e-6)
        write_audio(temporary, TONE, 8000)  # so that it may be renamed
    assert list(load_excerpt(tmp_path, "nmf", "A song")) == ["bass", "drums"]


def test_a_system_that_left_nothing_has_no_excerpt(tmp_path):
    (tmp_path / "audio" / "demucs").mkdir(parents=True)
    assert load_excerpt(tmp_path, "demucs", "A song") == {}
    with pytest.raises(FlowsepError, match="no excerpts yet"):
        load_excerpts(tmp_path)
    for rate, song in ((8000, "A"), (16000, "B")):
        write_audio(tmp_path / "audio" / "nmf" / song / "bass.flac", TONE, rate)
    with pytest.raises(FlowsepError, match="several sample rates"):
        load_excerpts(tmp_path)
