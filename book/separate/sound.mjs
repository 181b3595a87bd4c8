// Sound to magnitudes and masks to stems: what flowsep/spectrogram.py, stream.py and search.py do around the search, for
// one chunk. Spectra are {re, im}, one row of n / 2 + 1 bins per frame. FFT is the class of the package fft.js.

const FLOOR = 1e-8; // of magnitudes in ratios, as in search.py

/** A periodic Hann window, which starts at zero. */
const hann = (n) => Float64Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n));

/** X[m, k] of a signal that is reflected at both ends; 1 + samples / hop frames. */
export function stft(FFT, audio, n, hop) {
  if (audio.length <= n / 2) {
    const longer = new Float32Array(n / 2 + 1);
    longer.set(audio);
    audio = longer;
  }
  const frames = 1 + Math.floor(audio.length / hop), bins = n / 2 + 1, last = audio.length - 1;
  const re = new Float32Array(frames * bins), im = new Float32Array(frames * bins);
  const fft = new FFT(n), window = hann(n), frame = new Float64Array(n), out = fft.createComplexArray();
  for (let m = 0; m < frames; m++) {
    for (let i = 0; i < n; i++) {
      let at = Math.abs(m * hop + i - n / 2);
      if (at > last) at = 2 * last - at;
      frame[i] = window[i] * audio[at];
    }
    fft.realTransform(out, frame);
    for (let k = 0; k < bins; k++) {
      re[m * bins + k] = out[2 * k];
      im[m * bins + k] = out[2 * k + 1];
    }
  }
  return { re, im, frames, bins };
}

/** The signal of a spectrum times a mask (one row of bins per frame), by overlap and add: inverse of stft. */
export function istft(FFT, spectrum, mask, samples, n, hop) {
  const { re, im, frames, bins } = spectrum;
  const fft = new FFT(n), window = hann(n), whole = fft.createComplexArray(), out = fft.createComplexArray();
  const sum = new Float64Array((frames - 1) * hop + n), weight = new Float64Array(sum.length);
  for (let m = 0; m < frames; m++) {
    for (let k = 0; k < bins; k++) {
      const at = m * bins + k;
      whole[2 * k] = re[at] * mask[at];
      whole[2 * k + 1] = im[at] * mask[at];
    }
    fft.completeSpectrum(whole);
    fft.inverseTransform(out, whole);
    for (let i = 0; i < n; i++) {
      sum[m * hop + i] += window[i] * out[2 * i];
      weight[m * hop + i] += window[i] ** 2;
    }
  }
  return Float32Array.from({ length: samples }, (_, i) => sum[i + n / 2] / weight[i + n / 2]);
}

/** The spectra of the channels, and the magnitudes that the priors explain: (bins, frames), padded as the flow needs. */
export function analyse(FFT, channels, facts) {
  const { times, n_fft, hop, bins, squeeze } = facts, band = n_fft / 2 + 1;
  const spectra = channels.map((audio) => stft(FFT, audio, times * n_fft, times * hop));
  const { frames } = spectra[0], padded = Math.ceil(frames / squeeze) * squeeze;
  const target = new Float32Array(bins * padded);
  for (let k = 0; k < band; k++)
    for (let m = 0; m < frames; m++) {
      let power = 0;
      for (const { re, im, bins: all } of spectra) power += re[m * all + k] ** 2 + im[m * all + k] ** 2;
      target[k * padded + m] = Math.sqrt(power / spectra.length) / times;
    }
  return { spectra, target, frames, padded, band };
}

/** One mask per source, with rows above the priors' band, from estimates (sources, bins, padded frames). */
export function masks(estimates, sources, analysed, facts) {
  const { spectra, target, frames, padded, band } = analysed, all = spectra[0].bins, { bins, mask_power } = facts;
  const made = Array.from({ length: sources }, () => new Float32Array(frames * all));
  const own = new Float64Array(sources), top = new Float64Array(sources), upper = Math.ceil(band / 4);
  for (let m = 0; m < frames; m++) {
    top.fill(0);
    for (let k = 0; k < band; k++) {
      let loudest = 0, sum = 0;
      for (let s = 0; s < sources; s++) {
        own[s] = Math.max(estimates[(s * bins + k) * padded + m], FLOOR);
        loudest = Math.max(loudest, own[s]);
      }
      for (let s = 0; s < sources; s++) sum += own[s] = (own[s] / loudest) ** mask_power;
      for (let s = 0; s < sources; s++) {
        made[s][m * all + k] = own[s] / sum;
        if (k >= band - upper) top[s] += Math.max((own[s] / sum) * target[k * padded + m], FLOOR);
      }
    }
    const sum = top.reduce((a, b) => a + b);
    for (let s = 0; s < sources; s++) made[s].fill(top[s] / sum, m * all + band, (m + 1) * all);
  }
  return made;
}

/** The stems of all sources, each a list of channels; they sum to the mixture. */
export function stems(FFT, channels, estimates, sources, analysed, facts) {
  const { times, n_fft, hop } = facts, samples = channels[0].length;
  const all = masks(estimates, sources, analysed, facts).map((mask) =>
    analysed.spectra.map((spectrum) => istft(FFT, spectrum, mask, samples, times * n_fft, times * hop)));
  channels.forEach((mixture, c) => {
    for (let i = 0; i < samples; i++) {
      let missing = mixture[i];
      for (const stem of all) missing -= stem[c][i];
      for (const stem of all) stem[c][i] += missing / sources;
    }
  });
  return all;
}

/** Levels 0 ... 255 of magnitudes (bins, padded frames) from `offset` on: `rows` equal steps of pitch, low pitch last. */
export function picture(magnitudes, offset, analysed, facts, loudest, rows = 96, lowest = 40, range = 60) {
  const { frames, padded, band } = analysed, step = facts.sample_rate / facts.n_fft, highest = facts.sample_rate / 2;
  const levels = new Uint8Array(rows * frames);
  const edge = (row) => (lowest * (highest / lowest) ** (row / rows)) / step;
  for (let row = 0; row < rows; row++) {
    const first = Math.floor(edge(row)), end = Math.min(band, Math.max(first + 1, Math.floor(edge(row + 1))));
    for (let m = 0; m < frames; m++) {
      let most = 0;
      for (let k = first; k < end; k++) most = Math.max(most, magnitudes[offset + k * padded + m]);
      levels[(rows - 1 - row) * frames + m] = 255 * Math.max(0, 1 + (20 * Math.log10(most / loudest + 1e-9)) / range) ** 1.5;
    }
  }
  return levels;
}
