import pytest
import torch

from flowsep.spectrogram import istft, pad_features, stft


@pytest.mark.parametrize("samples", [1, 220, 513, 4096, 22050, 22051])
@pytest.mark.parametrize("times", [1, 2])
def test_inverse_gives_the_signal_back(samples, times):
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    back = istft(stft(audio, 1024 * times, 256 * times), samples, 1024 * times, 256 * times)
    assert back.shape == audio.shape
    torch.testing.assert_close(back, audio, atol=2e-6, rtol=0)


def test_a_tone_lies_in_its_bin_with_its_amplitude():
    n = torch.arange(22050)
    tone = 0.5 * torch.cos(2 * torch.pi * 40 / 1024 * n)  # the centre of bin 40
    magnitude = stft(tone).abs()[:, 5:-5]
    assert (magnitude.argmax(dim=0) == 40).all()
    # a Hann window sums to n_fft / 2, and a real tone has half of its amplitude at each of +f and -f
    torch.testing.assert_close(magnitude[40], torch.full_like(magnitude[40], 0.5 * 1024 / 4), rtol=1e-4, atol=0)


def test_twice_the_rate_with_twice_the_window_falls_on_the_same_bins():
    seconds = torch.arange(44100, dtype=torch.float64) / 44100
    high = torch.sin(2 * torch.pi * 441 * seconds) + 0.3 * torch.sin(2 * torch.pi * 3000 * seconds)
    low = high[::2]
    a, b = stft(low).abs(), stft(high, 2048, 512).abs()[:513] / 2
    assert a.shape == b.shape
    assert (a - b)[:, 4:-4].abs().max() < 1e-3 * a.max()


def test_padding():
    padded = pad_features(torch.ones(3, 513, 5), 514)
    assert padded.shape == (3, 514, 6)
    assert padded.sum() == 3 * 513 * 5
    with pytest.raises(ValueError, match="515 bins"):
        pad_features(torch.ones(515, 4), 514)


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        stft(torch.zeros(2, 0))
