// The stem player: a custom element that turns the plain <audio> tags inside it into a small mixing desk.
// Every name reaches the page through textContent or an attribute, never as markup. Colours are the page's own text
// colour mixed with nothing, so that the player follows any theme, light or dark, without asking which one it is.
(() => {
  "use strict";
  const TAG = "flowsep-player";
  const COMPRESSED = "The sounds are MP3 of about 200 kbit/s per stem; all scores were computed before compression.";
  const FADE = 0.006; // seconds: time constant of every change of level, short enough to feel immediate, too slow to click
  const SILENT_DB = -30; // the gain slider's left end means off
  const SHORTEST = 0.05; // seconds: of a part that is repeated, and of what a lane shows
  const DRAG = 5; // pixels from which on a pointer has been dragged, not clicked
  const FFT = 1024; // samples of a spectrogram's frame
  const ROWS = 96; // of a spectrogram, from 40 Hz to half the sample rate in equal steps of pitch
  const SURE_DB = 12; // expected above the error: the strip is full there
  const RANGE_DB = 70; // of a spectrogram, below the loudest spot of all lanes
  const ICON = {
    play: "M7 4.5v15l12.5-7.5z",
    pause: "M7 5h3.6v14H7zM13.4 5H17v14h-3.6z",
    closer: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l4.5 4.5M8 11h6M11 8v6",
    farther: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l4.5 4.5M8 11h6",
    spectra: "M4 20V9M8 20V5M12 20v-7M16 20V8M20 20v-9",
    match: "M4 8h16M4 16h16M8 4v8M16 12v8",
    save: "M12 4v11m-5-4.5 5 5 5-5M5 20h14",
    link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
    blind: "M4 17 8 7l4 10M5.4 13.5h5.2M15 7v10h3a2.5 2.5 0 0 0 0-5h-3 2.6a2.5 2.5 0 0 0 0-5z",
    help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5",
    repeat: "M5 12.5v-1A4.5 4.5 0 0 1 9.5 7H19m-3-3 3 3-3 3M19 11.5v1A4.5 4.5 0 0 1 14.5 17H5m3 3-3-3 3-3",
  };

  const KEYS = [
    ["Space", "play and pause"], ["← →", "one second back and on; with Shift five"], ["Home, End", "to the start, to the end"],
    ["1 to 9", "solo a stem; with Shift mute it"], ["N", "the next system, at the same playhead"], ["E", "equal levels"],
    ["L", "repeat"], ["[ ]", "the ends of the part that is repeated; Escape clears it"], ["+ −", "zoom"],
    ["V", "spectrograms"], ["B", "blind test"], ["?", "this list"],
  ];
  let volume = 1; // of all players of the page

  let context = null; // one AudioContext for all players of the page, made by the first click
  let sounding = null; // the one player that may be heard

  const clock = (t, total = t) => {
    const tenths = Math.floor(t * 10 + 1e-6);
    const seconds = ((tenths % 600) / 10).toFixed(1);
    return total < 60 ? seconds : `${Math.floor(tenths / 600)}:${seconds.padStart(4, "0")}`;
  };
  const decibels = (db) => (db <= SILENT_DB ? "off" : `${db < 0 ? "−" : db > 0 ? "+" : ""}${Math.abs(db)} dB`);
  const grid = (t) => Math.round(t * context.sampleRate) / context.sampleRate; // the nearest audio frame, in seconds
  const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const texts = (globalThis.flowsepSounds ??= {}); // file of a sound -> base64, which the script beside it puts there

  /** The bytes of a sound: from the page itself or from a file beside it. */
  async function sound(source) {
    if (source.startsWith("data:")) return bytes(source.slice(source.indexOf(",") + 1)).buffer;
    if (location.protocol !== "file:") {
      const answer = await fetch(source);
      if (!answer.ok) throw new Error(`${source}: ${answer.status}`);
      return answer.arrayBuffer();
    }
    const script = make("script", { src: `${source}.js` }); // a page on disk may run a script beside it, but not read one
    await new Promise((resolve, reject) => {
      Object.assign(script, { onload: resolve, onerror: () => reject(new Error(`${source}: no such file`)) });
      document.head.append(script);
    });
    script.remove();
    const name = source.slice(source.lastIndexOf("/") + 1);
    const text = texts[name];
    delete texts[name];
    return bytes(text).buffer;
  }

  /** An element with attributes, listeners (keys that start with "on") and children; strings become text nodes. */
  function make(tag, attributes = {}, ...children) {
    const svg = tag === "svg" || tag === "path";
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  const icon = (name) =>
    make("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, make("path", { d: ICON[name] }));

  /** A closed outline, mirrored about the middle line, of one byte per column. */
  function outline(columns) {
    const up = Array.from(columns, (v, i) => `${i + 0.5} ${(-v / 255).toFixed(3)}`);
    const down = Array.from(columns, (v, i) => `${i + 0.5} ${(v / 255).toFixed(3)}`).reverse();
    return `M${up.join("L")}L${down.join("L")}Z`;
  }

  /** Levels in dB of the spectrogram of decoded audio, channels averaged: `columns` columns of ROWS, low pitch first. */
  function spectrogram(buffer, columns) {
    const half = FFT / 2;
    const mono = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c++)
      buffer.getChannelData(c).forEach((v, i) => { mono[i] += v / buffer.numberOfChannels; });
    const window = Float32Array.from({ length: FFT }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT));
    const top = buffer.sampleRate / 2;
    const edge = (row) => (half * 40 * (top / 40) ** (row / ROWS)) / top; // in bins
    const out = new Float32Array(columns * ROWS);
    const re = new Float32Array(FFT), im = new Float32Array(FFT), power = new Float32Array(half);
    for (let column = 0; column < columns; column++) {
      const start = Math.round(((column + 0.5) / columns) * mono.length) - half;
      for (let i = 0; i < FFT; i++) re[i] = (mono[start + i] || 0) * window[i];
      im.fill(0);
      transform(re, im);
      for (let k = 0; k < half; k++) power[k] = re[k] * re[k] + im[k] * im[k];
      for (let row = 0; row < ROWS; row++) {
        const first = Math.floor(edge(row)), last = Math.max(first + 1, Math.floor(edge(row + 1)));
        let loudest = 1e-12;
        for (let k = first; k < last && k < half; k++) loudest = Math.max(loudest, power[k]);
        out[column * ROWS + row] = 10 * Math.log10(loudest);
      }
    }
    return out;
  }

  /** The discrete Fourier transform of re + i im in their place; their length is a power of two. */
  function transform(re, im) {
    const n = re.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) {
        [re[i], re[j]] = [re[j], re[i]];
        [im[i], im[j]] = [im[j], im[i]];
      }
    }
    for (let size = 2; size <= n; size *= 2)
      for (let k = 0; k < size / 2; k++) {
        const cos = Math.cos((2 * Math.PI * k) / size), sin = -Math.sin((2 * Math.PI * k) / size);
        for (let a = k; a < n; a += size) {
          const b = a + size / 2;
          const x = re[b] * cos - im[b] * sin, y = re[b] * sin + im[b] * cos;
          re[b] = re[a] - x; im[b] = im[a] - y;
          re[a] += x; im[a] += y;
        }
      }
  }

  class StemPlayer extends HTMLElement {
    connectedCallback() {
      // While the page is still being parsed the children are not there yet; the script behind the element builds then.
      if (document.readyState !== "loading") this.build();
    }

    disconnectedCallback() {
      this.pause();
    }

    // ---- what the page and the tests may call -------------------------------------------------------------------
    get duration() {
      return this._duration;
    }

    get playing() {
      return this._playing;
    }

    get currentTime() {
      if (!this._voice) return this._position;
      const t = this._voice.position + Math.max(0, context.currentTime - this._voice.time);
      if (!this._loop) return Math.min(t, this._duration);
      const [from, to] = this._repeated();
      return t < to ? t : from + ((t - from) % (to - from));
    }

    get system() {
      return this._system;
    }

    get systems() {
      return [...this._systems.keys()];
    }

    /** The part that is repeated, [from, to] in seconds, or null for none or the whole. */
    get region() {
      return this._region && [...this._region];
    }

    /** What the lanes show, [from, to] in seconds. */
    get view() {
      return [...this._view];
    }

    /** The factor with which each stem is heard now, by name: solo beats mute beats gain. */
    get levels() {
      return Object.fromEntries(this._levels(this._system).map((level, i) => [this._stems[i].name, level]));
    }

    async play() {
      if (this._playing) return;
      if (sounding && sounding !== this) sounding.pause();
      sounding = this;
      this._playing = true;
      const ticket = ++this._ticket;
      this._say("");
      this._paint();
      try {
        context ??= new AudioContext();
        await context.resume();
        while (!this._decoded.has(this._system)) await this._load(this._system); // another may be chosen meanwhile
        if (ticket === this._ticket) this._begin(); // unless paused meanwhile
      } catch (error) {
        if (ticket !== this._ticket) return;
        this.pause();
        this._fail(error);
      }
    }

    pause() {
      if (!this._playing) return;
      this._position = this.currentTime;
      this._playing = false;
      this._ticket += 1;
      this._end();
      this._paint();
    }

    toggle() {
      if (this._playing) this.pause();
      else this.play();
    }

    /** Move the playhead to `t` seconds, playing or not; outside the part that is repeated that part is given up. */
    seek(t) {
      t = Math.min(Math.max(0, t), this._duration);
      if (this._region && (t < this._region[0] || t >= this._region[1])) this._forget();
      this._move(t);
    }

    /** Repeat what lies between two times in seconds; too short a part, or none given, means none. */
    repeat(from = 0, to = 0) {
      const ends = [from, to].sort((a, b) => a - b).map((t) => Math.min(Math.max(0, t), this._duration));
      const at = this.currentTime;
      if (ends[1] - ends[0] < SHORTEST) {
        this._forget();
        this._move(at);
        return;
      }
      this._asked ??= this._loop; // whether all was repeated before
      this._region = ends;
      this._loop = true;
      this._move(at >= ends[0] && at < ends[1] ? at : ends[0]);
    }

    /** Show `factor` times less of the song at once, about the playhead. */
    zoom(factor) {
      const length = Math.min(this._duration, Math.max(SHORTEST, (this._view[1] - this._view[0]) / factor));
      this._show(this.currentTime - length / 2, length);
    }

    /** Hear the stems of a preset alone, at their own levels. */
    preset(name) {
      const heard = this._presets[name];
      if (!heard) return;
      for (const stem of this._stems) Object.assign(stem, { solo: false, mute: !heard.includes(stem.name), db: 0, pan: 0 });
      this._paint();
      this._mix();
    }

    /** Bring each stem of every system to the level that it has in the first one, or not. */
    match(on) {
      this._matched = on;
      this._paint();
      this._mix();
    }

    /** How loud the whole page is, 0 to 1. */
    get volume() {
      return volume;
    }

    set volume(level) {
      volume = Math.min(1, Math.max(0, level));
      sounding?._voice?.output.gain.setTargetAtTime(volume, context.currentTime, FADE);
      for (const player of document.querySelectorAll(TAG)) player._loudness && (player._loudness.value = volume);
    }

    /** The address of this page with this player, its system and its playhead. */
    get address() {
      const place = [...document.querySelectorAll(TAG)].indexOf(this);
      const state = new URLSearchParams({ player: place, system: this._system, t: this.currentTime.toFixed(1) });
      return `${location.href.split("#")[0]}#${state}`;
    }

    /** Go where the page's address says, if it names this player. */
    _arrive() {
      const state = new URLSearchParams(location.hash.slice(1));
      if (!state.has("player") || document.querySelectorAll(TAG)[state.get("player")] !== this) return;
      this.select(state.get("system"));
      this.seek(Number(state.get("t")) || 0);
      this.scrollIntoView({ block: "center" });
    }

    /** Hide which system plays: two of them, A and B, until one is preferred; or end that. */
    blind(on = !this._blind) {
      this._blind = null;
      if (on && this._rivals.length > 1) {
        const left = [...this._rivals];
        const draw = () => left.splice(Math.floor(Math.random() * left.length), 1)[0];
        this._blind = { A: draw(), B: draw() };
        this.select(this._blind.A);
        this._say("A and B are two of the systems. Listen to both, then say which one you prefer.");
      } else this._say("");
      this._offer();
      this._draw();
      this._paint();
    }

    /** The choice of a blind test: its systems are named, the score is kept, and two others follow. */
    prefer(letter) {
      const { A, B } = this._blind;
      const chosen = this._blind[letter];
      this._tally.set(chosen, (this._tally.get(chosen) ?? 0) + 1);
      const score = [...this._tally].sort((a, b) => b[1] - a[1]).map(([name, times]) => `${name} ${times}`).join(", ");
      this.blind(true);
      this._say(`You preferred ${chosen}; A was ${A}, B was ${B}. So far: ${score}. The next two are ready.`);
    }

    /** Show spectrograms, or waveforms; they are computed from the decoded sound. */
    async spectra(on) {
      this._spectra = on;
      this._draw();
      this._paint();
      if (!on) return;
      try {
        context ??= new AudioContext();
        await this._load(this._system);
        this._draw();
      } catch (error) {
        this._spectra = false;
        this._paint();
        this._fail(error);
      }
    }

    /** Hear another system at the same playhead; its stems start on the same audio frame grid as those that sound. */
    async select(system) {
      if (!this._systems.has(system)) return;
      this._system = system;
      this._draw();
      this._paint();
      if (!this._voice) {
        if (this._spectra) await this.spectra(true);
        return;
      }
      const ticket = this._ticket;
      try {
        await this._load(system);
      } catch (error) {
        this.pause();
        this._fail(error);
        return;
      }
      if (ticket !== this._ticket || !this._voice || system !== this._system) return;
      this._mix(this._join(system));
      this._draw();
    }

    // ---- sound --------------------------------------------------------------------------------------------------
    /** Decode one system's stems, once, each to exactly the common number of frames so that loops stay in step. */
    _load(system) {
      const decode = async (audio) => {
        const decoded = await context.decodeAudioData(await sound(audio.getAttribute("src")));
        const frames = Math.max(1, Math.round(this._duration * context.sampleRate));
        if (decoded.length === frames) return decoded;
        const exact = context.createBuffer(decoded.numberOfChannels, frames, context.sampleRate);
        for (let c = 0; c < decoded.numberOfChannels; c++)
          exact.copyToChannel(decoded.getChannelData(c).subarray(0, frames), c);
        return exact;
      };
      if (!this._buffers.has(system)) {
        const all = Promise.all(this._systems.get(system).map(decode)).then((buffers) => {
          this._decoded.set(system, buffers);
        });
        this._buffers.set(system, all);
      }
      return this._buffers.get(system);
    }

    /** Start to sound at the playhead; the current system is decoded. */
    _begin() {
      if (!this._loop && this._position >= this._duration) this._position = 0;
      if (this._region && this._position >= this._region[1]) this._position = this._region[0];
      const output = context.createGain();
      output.gain.value = volume;
      output.connect(context.destination);
      this._voice = {
        output, nodes: new Map(), length: grid(this._duration),
        time: grid(context.currentTime + 0.02), position: grid(this._position), // at `time` the playhead is at `position`
      };
      this._join(this._system);
      this._frame();
    }

    /** Add a decoded system to what runs, in step with it to the audio frame; returns the time from which it sounds. */
    _join(system) {
      const voice = this._voice;
      if (voice.nodes.has(system)) return context.currentTime;
      const when = grid(Math.max(voice.time, context.currentTime + 0.02));
      const [from, to] = this._repeated().map((t) => Math.round(t * context.sampleRate));
      let first = Math.round((voice.position + when - voice.time) * context.sampleRate);
      if (this._loop && first >= to) first = from + ((first - from) % (to - from));
      if (first >= Math.round(voice.length * context.sampleRate)) return context.currentTime;
      const levels = this._levels(system);
      const nodes = this._decoded.get(system).map((buffer, i) => {
        const source = context.createBufferSource();
        const gain = context.createGain();
        const sides = [context.createGain(), context.createGain()];
        const split = context.createChannelSplitter(2), merge = context.createChannelMerger(2);
        source.buffer = buffer;
        Object.assign(source, { loop: this._loop, loopStart: from / context.sampleRate, loopEnd: to / context.sampleRate });
        gain.gain.value = voice.nodes.size ? 0 : levels[i];
        Object.assign(gain, { channelCount: 2, channelCountMode: "explicit" }); // a mono stem has two equal sides
        source.connect(gain).connect(split);
        sides.forEach((side, c) => {
          side.gain.value = this._stems[i].sides[c];
          split.connect(side, c).connect(merge, 0, c);
        });
        merge.connect(voice.output);
        source.start(when, first / context.sampleRate);
        return { source, gain, sides };
      });
      if (!voice.nodes.size) nodes[0].source.onended = () => voice === this._voice && this._finish();
      voice.nodes.set(system, nodes);
      return when;
    }

    /** Let every gain follow the desk from `time` on: coherent cross-fade between systems, no clicks. */
    _mix(time = context?.currentTime) {
      const voice = this._voice;
      if (!voice || !voice.nodes.has(this._system)) return; // the chosen system is still being decoded
      for (const [system, nodes] of voice.nodes) {
        const levels = this._levels(system);
        nodes.forEach(({ gain, sides }, i) => {
          gain.gain.setTargetAtTime(system === this._system ? levels[i] : 0, time, FADE);
          sides.forEach((side, c) => side.gain.setTargetAtTime(this._stems[i].sides[c], time, FADE));
        });
      }
    }

    /** The factor of each stem of a system, by the desk and, where levels are matched, by the system. */
    _levels(system) {
      const soloed = this._stems.some((stem) => stem.solo);
      return this._stems.map((stem, i) => {
        if ((soloed ? !stem.solo : stem.mute) || stem.db <= SILENT_DB) return 0;
        return 10 ** (stem.db / 20) * (this._matched ? Number(this._systems.get(system)[i].dataset.match) : 1);
      });
    }

    /** [from, to] in seconds of what is repeated, on the grid of audio frames. */
    _repeated() {
      return (this._region ?? [0, this._duration]).map(grid);
    }

    /** The playhead goes to `t`, whatever is repeated. */
    _move(t) {
      const sounds = Boolean(this._voice);
      this._end();
      this._position = t;
      if (sounds) this._begin();
      this._paint();
    }

    /** No part is repeated any more; all is, if it was before. */
    _forget() {
      if (this._region) this._loop = this._asked;
      this._region = this._asked = null;
    }

    _end() {
      const voice = this._voice;
      if (!voice) return;
      this._voice = null;
      voice.output.gain.setTargetAtTime(0, context.currentTime, FADE / 2);
      for (const { source } of [...voice.nodes.values()].flat()) source.stop(context.currentTime + 6 * FADE);
      setTimeout(() => voice.output.disconnect(), 200);
    }

    _finish() {
      this.pause();
      this._position = 0;
      this._paint();
    }

    _setLoop(on) {
      if (this._voice) {
        this._voice.position = grid(this.currentTime);
        this._voice.time = grid(Math.max(this._voice.time, context.currentTime));
        for (const { source } of [...this._voice.nodes.values()].flat()) source.loop = on;
      }
      this._loop = on;
      if (!on) this._region = this._asked = null;
      this._paint();
    }

    // ---- the desk -----------------------------------------------------------------------------------------------
    build() {
      const audios = [...this.querySelectorAll("audio[data-stem]")];
      if (this.shadowRoot || !audios.length) return;
      Object.assign(this, {
        _playing: false, _loop: false, _region: null, _asked: null, _position: 0, _ticket: 0, _voice: null,
        _matched: false, _spectra: false, _pictures: new Map(), _presets: JSON.parse(this.dataset.presets || "{}"),
        _buffers: new Map(), _decoded: new Map(), _systems: new Map(), _blind: null, _tally: new Map(),
      });
      this._duration = Number(this.dataset.seconds);
      this._view = [0, this._duration];
      for (const audio of audios) {
        const system = audio.dataset.system;
        if (!this._systems.has(system)) this._systems.set(system, []);
        this._systems.get(system).push(audio);
      }
      this._system = this.systems[0];
      const names = this._systems.get(this._system).map((audio) => audio.dataset.stem);
      // A mixture beside its stems would double them: it starts muted, and solo brings it back for comparison.
      const mute = (name) => name === "mixture" && names.length > 1;
      this._stems = names.map((name) => ({
        name, db: 0, pan: 0, solo: false, mute: mute(name),
        get sides() { return [Math.min(1, 1 - this.pan), Math.min(1, 1 + this.pan)]; }, // a balance: never louder
      }));
      this._stems.forEach((stem, i) => this._lane(stem, this._systems.get(this._system)[i].dataset.color));
      this._rivals = this.systems.filter((name) => !/^(references?$|true )/i.test(name));
      this._desk();
      followTheme();
      this._draw();
      this._paint();
      this._arrive();
      addEventListener("hashchange", () => this._arrive());
    }

    _desk() {
      const title = this.dataset.title;
      this._button = make("button", { class: "play", type: "button", onclick: () => this.toggle() }, icon("play"));
      this._time = make("span", { class: "now" });
      const tool = (name, label, title, onclick) =>
        make("button", { class: `tool ${name}`, type: "button", title, "aria-label": label, onclick }, icon(name));
      this._repeat = tool("repeat", "Repeat", "Repeat (L); drag over a lane to repeat a part of it, Escape gives it up",
        () => this._setLoop(!this._loop));
      this._closer = tool("closer", "Zoom in", "Zoom in (+)", () => this.zoom(2));
      this._farther = tool("farther", "Zoom out", "Zoom out (−)", () => this.zoom(0.5));
      this._seen = tool("spectra", "Spectrograms", "Spectrograms instead of waveforms (V)", () => this.spectra(!this._spectra));
      this._even = tool("match", "Match levels", "Match levels: each stem as loud as in the first system (E)",
        () => this.match(!this._matched));
      this._even.hidden = this.systems.length < 2;
      this._test = tool("blind", "Blind test", "Blind test: which of two systems do you prefer? (B)", () => this.blind());
      this._test.hidden = this._rivals.length < 2;
      const save = tool("save", "Download", "Download the stems of this system", () => this._save());
      const link = tool("link", "Copy link", "Copy a link to this system and this moment", () => this._copy());
      this._asking = tool("help", "Keys", "Keys (?)", () => this._explain());
      this._loudness = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: volume, class: "volume",
        "aria-label": "Volume of all players", title: "Volume of all players", oninput: () => { this.volume = Number(this._loudness.value); } });
      const presets = make("select", { class: "presets", "aria-label": "Preset", title: "Which stems are heard",
        onchange: () => { this.preset(presets.value); presets.selectedIndex = 0; } }, make("option", { value: "" }, "Presets"));
      for (const name of Object.keys(this._presets)) {
        const option = make("option", {}, name);
        option.value = name;
        presets.append(option);
      }
      presets.hidden = presets.options.length < 3; // one alone is what is heard anyway
      this._choice = make("div", { class: "systems", role: "group", "aria-label": "System" });
      this._offer();
      this._ruler = make("div", { class: "ruler", role: "slider", tabindex: "0", "aria-label": "Position",
        "aria-valuemin": "0", "aria-valuemax": this._duration.toFixed(1) });
      this._scrub(this._ruler);
      this._status = make("p", { class: "status", role: "status" });
      const desk = make("div", { class: "desk", role: "group", "aria-label": title ? `Stem player: ${title}` : "Stem player" });
      if (title) desk.append(make("p", { class: "title" }, title));
      desk.append(
        make("div", { class: "bar" }, this._button,
          make("span", { class: "time" }, this._time, make("span", { class: "total" }, ` / ${clock(this._duration)} s`)),
          this._choice,
          make("span", { class: "tools" }, this._loudness, presets, this._even, this._seen, this._farther, this._closer,
            this._repeat, this._test, save, link, this._asking)),
        make("div", { class: "lanes" }, make("div", { class: "corner" }), this._ruler,
          ...this._stems.flatMap((stem) => [stem.head, stem.lane])));
      const compressed = this.querySelector("audio[src$='.mp3'], audio[src^='data:audio/mpeg']") ? COMPRESSED : "";
      const note = [this.dataset.note, compressed].filter(Boolean).join(" ");
      if (note) desk.append(make("p", { class: "note" }, note));
      const rows = KEYS.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]);
      this._keys = make("dl", { class: "keys", hidden: "" }, ...rows);
      desk.append(this._keys, this._status);
      desk.addEventListener("keydown", (event) => this._key(event));
      // Firefox presses a button when Space goes up
      desk.addEventListener("keyup", (event) => event.key === " " && event.preventDefault());
      const style = make("style");
      style.textContent = CSS;
      this._root = this.attachShadow({ mode: "open" });
      this._root.append(style, desk);
      this._surface = desk;
    }

    /** The buttons of the systems, or of a blind test. */
    _offer() {
      const entry = (name, what, title) => make("button", { type: "button", title, onclick: what }, name);
      const choose = (letter) => entry(letter, () => this.select(this._blind[letter]), `Hear ${letter}`);
      const prefer = (letter) => entry(`I prefer ${letter}`, () => this.prefer(letter), `Say that ${letter} is better`);
      const named = () => (this.systems.length > 1 ? this.systems : []).map((name) => entry(name, () => this.select(name), name));
      this._choice.replaceChildren(...(this._blind ? [choose("A"), choose("B"), prefer("A"), prefer("B")] : named()));
    }

    /** Save the stems of the system that plays, one file each, as the page has them. */
    async _save() {
      try {
        for (const audio of this._systems.get(this._system)) {
          const source = audio.getAttribute("src");
          const [kind] = /(?<=^data:audio\/)\w+|(?<=\.)\w+$/.exec(source);
          const suffix = kind.replace("mpeg", "mp3");
          const parts = [this.dataset.title, this._blind ? "" : this._system, audio.dataset.stem].filter(Boolean);
          const name = parts.join(" - ").replace(/[^\p{L}\p{N} .,()+-]/gu, "_");
          const href = URL.createObjectURL(new Blob([await sound(source)]));
          make("a", { href, download: `${name}.${suffix}` }).click();
          setTimeout(() => URL.revokeObjectURL(href), 60_000);
        }
      } catch (error) {
        this._fail(error);
      }
    }

    async _copy() {
      history.replaceState(null, "", this.address);
      try {
        await navigator.clipboard.writeText(this.address);
        this._say("The link is in the clipboard.");
      } catch {
        this._say("The address of the page now leads to this moment."); // without a secure origin there is no clipboard
      }
    }

    _explain() {
      this._keys.hidden = !this._keys.hidden;
      this._asking.setAttribute("aria-pressed", !this._keys.hidden);
    }

    _lane(stem, color) {
      const toggle = (key, letter, label) =>
        make("button", { type: "button", class: key, title: label, "aria-label": `${label} ${stem.name}`,
          onclick: () => { stem[key] = !stem[key]; this._paint(); this._mix(); } }, letter);
      stem.soloButton = toggle("solo", "S", "Solo");
      stem.muteButton = toggle("mute", "M", "Mute");
      const set = (db) => { stem.db = db; this._paint(); this._mix(); };
      stem.slider = make("input", { type: "range", min: SILENT_DB, max: 6, step: 1, "aria-label": `Gain of ${stem.name}`,
        title: "Gain; double-click for 0 dB", oninput: () => set(Number(stem.slider.value)), ondblclick: () => set(0) });
      const turn = (pan) => { stem.pan = pan; this._paint(); this._mix(); };
      stem.panner = make("input", { type: "range", class: "pan", min: -1, max: 1, step: 0.1, "aria-label": `Pan of ${stem.name}`,
        title: "Pan; double-click for the centre", oninput: () => turn(Number(stem.panner.value)), ondblclick: () => turn(0) });
      stem.readout = make("span", { class: "db", "aria-hidden": "true" });
      stem.head = make("div", { class: "head", role: "group", "aria-label": stem.name },
        make("span", { class: "name", title: stem.name }, stem.name),
        make("span", { class: "controls" }, stem.soloButton, stem.muteButton, stem.slider, stem.panner));
      stem.wave = make("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
      stem.picture = make("span", { class: "picture", "aria-hidden": "true" });
      stem.strip = make("span", { class: "strip", "aria-hidden": "true" });
      stem.lane = make("div", { class: "lane" }, stem.wave, stem.picture, stem.strip, stem.readout);
      stem.color = color;
      for (const node of [stem.head, stem.lane]) node.style.setProperty("--color", color);
      this._scrub(stem.lane, { selects: true });
    }

    /** Pointer down: the playhead goes there. Dragged: it follows or, with `selects`, the part in between is repeated. */
    _scrub(lane, { selects = false } = {}) {
      const time = (event) => {
        const box = lane.getBoundingClientRect();
        const [from, to] = this._view;
        return Math.min(to, Math.max(from, from + ((event.clientX - box.left) / box.width) * (to - from)));
      };
      let pressed = null;
      lane.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        lane.setPointerCapture(event.pointerId);
        pressed = { x: event.clientX, time: time(event), dragged: false };
        if (!selects) this.seek(pressed.time);
        this._ruler.focus({ preventScroll: true });
        event.preventDefault();
      });
      lane.addEventListener("pointermove", (event) => {
        if (!pressed) return;
        pressed.dragged ||= Math.abs(event.clientX - pressed.x) > DRAG;
        if (!selects) this.seek(time(event));
        else if (pressed.dragged) this._mark([pressed.time, time(event)].sort((a, b) => a - b));
      });
      lane.addEventListener("pointerup", (event) => {
        if (pressed && selects) {
          if (pressed.dragged) this.repeat(pressed.time, time(event));
          else this.seek(pressed.time);
        }
        pressed = null;
      });
      lane.addEventListener("pointercancel", () => { // the finger scrolls the page instead
        pressed = null;
        this._mark(this._region);
      });
    }

    /** Show `length` seconds from `from` on, as far as there are. */
    _show(from, length) {
      from = Math.min(Math.max(0, from), this._duration - length);
      this._view = [from, from + length];
      this._draw();
      this._paint();
    }

    /** The percentage of a lane's width at which a time lies. */
    _place(t) {
      return `${((100 * (t - this._view[0])) / (this._view[1] - this._view[0])).toFixed(3)}%`;
    }

    /** Frame a part on all lanes, or none. */
    _mark(ends) {
      this._surface.toggleAttribute("data-region", Boolean(ends));
      if (!ends) return;
      this._surface.style.setProperty("--from", this._place(ends[0]));
      this._surface.style.setProperty("--to", this._place(ends[1]));
    }

    _key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { target, key, code } = event;
      const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code);
      const stem = digit && this._stems[digit[1] - 1];
      // Space and arrows move the song wherever the focus is: Enter presses a button, and only sliders keep the arrows
      if (/^(Arrow|Home|End|Page)/.test(key) && target.matches("input, select")) return;
      if (key === " " && target.matches("select")) return;
      const far = event.shiftKey ? 5 : 1;
      if (key === " " || key === "k") this.toggle();
      else if (key === "ArrowLeft" || key === "ArrowDown") this.seek(this.currentTime - far);
      else if (key === "ArrowRight" || key === "ArrowUp") this.seek(this.currentTime + far);
      else if (key === "Home") this.seek(0);
      else if (key === "End") this.seek(this._duration);
      else if (key === "l") this._setLoop(!this._loop);
      else if (key === "[") this.repeat(this.currentTime, this._region?.[1] ?? this._duration);
      else if (key === "]") this.repeat(this._region?.[0] ?? 0, this.currentTime);
      else if (key === "Escape" && this._region) this.repeat();
      else if (key === "+" || key === "=") this.zoom(2);
      else if (key === "-") this.zoom(0.5);
      else if (key === "v") this.spectra(!this._spectra);
      else if (key === "e" && this.systems.length > 1) this.match(!this._matched);
      else if (key === "n") this.select(this._next());
      else if (key === "b" && !this._test.hidden) this.blind();
      else if (key === "?") this._explain();
      else if (stem) (event.shiftKey ? stem.muteButton : stem.soloButton).click();
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    /** The system after the current one; in a blind test the other of the two. */
    _next() {
      const all = this._blind ? [this._blind.A, this._blind.B] : this.systems;
      return all[(all.indexOf(this._system) + 1) % all.length];
    }

    /** The ruler, and the waveforms or spectrograms of the current system. */
    _draw() {
      const [from, to] = this._view, share = (to - from) / this._duration;
      const spectral = this._spectra && this._decoded.has(this._system);
      this._surface.classList.toggle("spectral", spectral);
      this._systems.get(this._system).forEach((audio, i) => {
        const values = bytes(audio.dataset.peaks);
        const n = values.length / 2;
        const { wave, picture, strip } = this._stems[i];
        wave.setAttribute("viewBox", `${(n * from) / this._duration} -1.04 ${n * share} 2.08`);
        wave.replaceChildren(
          make("path", { class: "peak", d: outline(values.subarray(0, n)) }),
          make("path", { class: "rms", d: outline(values.subarray(n)) }));
        const drawn = spectral ? [this._picture(this._system)[i]] : [];
        for (const canvas of drawn) Object.assign(canvas.style, { width: `${100 / share}%`, left: this._place(0) });
        picture.replaceChildren(...drawn);
        strip.replaceChildren(...(audio.dataset.confidence ?? "").split(" ").filter(Boolean).map((db, second) => {
          const part = make("i");
          const sure = Math.min(1, Math.max(0, (Number(db) || 0) / SURE_DB));
          Object.assign(part.style, { left: this._place(second), width: `${100 / (to - from)}%`, opacity: sure });
          return part;
        }));
      });
      const shown = this._blind ? Object.keys(this._blind) : this.systems;
      const heard = this._blind ? (this._blind.A === this._system ? "A" : "B") : this._system;
      [...this._choice.children].slice(0, shown.length).forEach((button, i) => button.setAttribute("aria-pressed", shown[i] === heard));
      const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((s) => (to - from) / s <= 8) ?? 600;
      const ticks = [];
      for (let k = Math.ceil(from / step); k * step < to - step * 0.3; k++) {
        const t = k * step;
        const text = this._duration < 60 ? String(Math.round(t * 100) / 100) : clock(t, this._duration).slice(0, step < 1 ? undefined : -2);
        const tick = make("span", {}, t ? text : "0 s");
        tick.style.left = this._place(t);
        ticks.push(tick);
      }
      this._ruler.replaceChildren(...ticks);
    }

    /** The spectrograms of a decoded system, in the colours of its stems: the louder, the less transparent. */
    _picture(system) {
      if (!this._pictures.has(system)) {
        const buffers = this._decoded.get(system);
        const columns = Math.max(1, Math.min(800, Math.ceil(buffers[0].length / 256)));
        const levels = buffers.map((buffer) => spectrogram(buffer, columns));
        const loudest = levels.reduce((most, values) => values.reduce((a, b) => Math.max(a, b), most), -120);
        this._pictures.set(system, levels.map((values, i) => {
          const canvas = make("canvas", { width: columns, height: ROWS });
          const pen = canvas.getContext("2d");
          const image = pen.createImageData(columns, ROWS);
          values.forEach((db, at) => {
            const column = Math.floor(at / ROWS), row = ROWS - 1 - (at % ROWS);
            image.data[4 * (row * columns + column) + 3] = 255 * Math.max(0, 1 + (db - loudest) / RANGE_DB) ** 1.5;
          });
          pen.putImageData(image, 0, 0);
          pen.globalCompositeOperation = "source-in";
          pen.fillStyle = this._stems[i].color;
          pen.fillRect(0, 0, columns, ROWS);
          return canvas;
        }));
      }
      return this._pictures.get(system);
    }

    /** The playhead and the clock; assistive technology hears of whole seconds while the sound runs. */
    _tick() {
      const t = this.currentTime;
      const [from, to] = this._view;
      if (t < from - 1e-6 || t > to + 1e-6) this._show(t, to - from); // the next page
      this._surface.style.setProperty("--at", this._place(t));
      const text = clock(t, this._duration);
      if (text !== this._time.textContent) this._time.textContent = text;
      if (this._playing && Math.floor(t) === Math.floor(this._ruler.ariaValueNow)) return;
      this._ruler.setAttribute("aria-valuenow", t.toFixed(1));
      this._ruler.setAttribute("aria-valuetext", `${t.toFixed(1)} of ${this._duration.toFixed(1)} seconds`);
    }

    /** Everything else that depends on the state. */
    _paint() {
      this._tick();
      const levels = this.levels;
      if (this._button.dataset.playing !== String(this._playing)) {
        this._button.dataset.playing = this._playing;
        this._button.replaceChildren(icon(this._playing ? "pause" : "play"));
        this._button.setAttribute("aria-label", this._playing ? "Pause" : "Play");
        this._button.title = this._playing ? "Pause (space)" : "Play (space)";
      }
      this._repeat.setAttribute("aria-pressed", this._loop);
      this._seen.setAttribute("aria-pressed", this._spectra);
      this._even.setAttribute("aria-pressed", this._matched);
      this._test.setAttribute("aria-pressed", Boolean(this._blind));
      const shown = this._view[1] - this._view[0];
      this._farther.disabled = shown >= this._duration;
      this._closer.disabled = shown <= SHORTEST;
      this._mark(this._region);
      for (const stem of this._stems) {
        stem.soloButton.setAttribute("aria-pressed", stem.solo);
        stem.muteButton.setAttribute("aria-pressed", stem.mute);
        stem.slider.value = stem.db;
        stem.slider.setAttribute("aria-valuetext", decibels(stem.db));
        stem.slider.style.setProperty("--fill", `${(100 * (stem.db - SILENT_DB)) / (6 - SILENT_DB)}%`);
        stem.panner.value = stem.pan;
        const side = `${Math.round(100 * Math.abs(stem.pan))} % ${stem.pan < 0 ? "left" : "right"}`;
        stem.panner.setAttribute("aria-valuetext", stem.pan ? side : "centre");
        stem.readout.textContent = [stem.db ? decibels(stem.db) : "", stem.pan ? side : ""].filter(Boolean).join(", ");
        stem.lane.classList.toggle("silent", levels[stem.name] === 0);
      }
    }

    /** While it sounds, the playhead moves 30 times a second: smooth enough, and half the work of every frame. */
    _frame(last = 0) {
      if (!this._voice) return;
      const now = performance.now();
      const due = now - last > 30;
      if (due) this._tick();
      requestAnimationFrame(() => this._frame(due ? now : last));
    }

    _say(text) {
      this._status.textContent = text;
    }

    _fail(error) {
      this._say(`This browser could not decode the sound (${error.message}). The plain players follow.`);
      if (!this._root.querySelector("slot")) this._root.append(make("slot"));
    }
  }

  /** In its dark theme the Jupyter Book page puts HTML outputs on a light card; the player brings its own colours. */
  function followTheme() {
    if (document.getElementById(TAG)) return;
    const style = make("style", { id: TAG });
    style.textContent = `html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(${TAG})
      { background: none; color: inherit; padding: 0 }`;
    document.head.append(style);
  }

  const CSS = `
    :host { display: block; container-type: inline-size; margin: .75rem 0 1rem; color: inherit; font-size: .875rem; line-height: 1.35;
      --soft: color-mix(in srgb, currentColor 72%, transparent);
      --line: color-mix(in srgb, currentColor 16%, transparent);
      --tint: color-mix(in srgb, currentColor 6%, transparent) }
    * { box-sizing: border-box }
    p { margin: 0 }
    [hidden] { display: none !important }
    button, input, select { font: inherit; color: inherit }
    .desk { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; user-select: none; -webkit-user-select: none }
    .title { padding: .6rem .8rem 0; font-weight: 600; overflow-wrap: anywhere; user-select: text; -webkit-user-select: text }
    .bar { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .75rem; padding: .6rem .8rem }
    .time { font-variant-numeric: tabular-nums; white-space: nowrap }
    .now { font-weight: 600 }
    .total { color: var(--soft) }
    button { display: inline-grid; place-items: center; padding: 0; border: 1px solid var(--line); border-radius: 6px;
      background: none; cursor: pointer; transition: background-color .12s, border-color .12s }
    button:hover { background: var(--tint); border-color: color-mix(in srgb, currentColor 40%, transparent) }
    svg { display: block; fill: currentColor }
    .tool svg { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round }
    .play { width: 2.5rem; height: 2.5rem; border-radius: 50%; background: var(--tint) }
    .play svg { width: 1.35rem }
    .tools { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem; margin-left: auto }
    .presets { height: 2rem; max-width: 9rem; padding: 0 .3rem; border: 1px solid var(--line); border-radius: 6px; background: none; cursor: pointer }
    .presets option { color: CanvasText; background: Canvas }
    .tool { width: 2rem; height: 2rem }
    .tool svg { width: 1.1rem; opacity: .72 }
    .tool:disabled { cursor: default }
    .tool:disabled svg { opacity: .3 }
    .tool[aria-pressed=true] { background: color-mix(in srgb, currentColor 16%, transparent);
      border-color: currentColor }
    .tool[aria-pressed=true] svg { opacity: 1 }
    .systems { display: flex; flex-wrap: wrap; gap: 2px; padding: 2px; border-radius: 8px; background: var(--tint) }
    .systems:empty { display: none }
    .systems button { padding: .25rem .7rem; border-color: transparent; color: var(--soft) }
    .systems button:hover { color: inherit }
    .systems button[aria-pressed=true] { color: inherit; font-weight: 600; border-color: color-mix(in srgb, currentColor 34%, transparent);
      background: color-mix(in srgb, currentColor 9%, transparent) }
    .keys { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .9rem; margin: 0; padding: .6rem .8rem; border-top: 1px solid var(--line) }
    .keys dt { font-weight: 600 }
    .keys dd { margin: 0 }
    .lanes { display: grid; grid-template-columns: minmax(18.5rem, auto) minmax(0, 1fr); border-top: 1px solid var(--line) }
    .head, .lane { --stem: color-mix(in srgb, var(--color) 84%, currentColor) } /* a little darker by day, lighter by night */
    .head, .corner { border-right: 1px solid var(--line) }
    .head { display: flex; align-items: center; justify-content: space-between; gap: .9rem; padding: 0 .7rem 0 .8rem }
    .name { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; max-width: 9rem; overflow: hidden; overflow-wrap: anywhere;
      padding-left: 1.1rem; text-indent: -1.1rem; line-height: 1.25 }
    .name::before { content: ""; display: inline-block; width: .6rem; height: .6rem; margin-right: .5rem; border-radius: 50%; background: var(--stem) }
    .controls { display: flex; align-items: center; gap: .3rem }
    .controls button { width: 1.6rem; height: 1.6rem; font-size: .75rem; font-weight: 600; color: var(--soft) }
    .controls button[aria-pressed=true] { color: inherit; background: color-mix(in srgb, var(--stem) 30%, transparent); border-color: var(--stem) }
    .controls .mute[aria-pressed=true] { background: color-mix(in srgb, currentColor 18%, transparent); border-color: currentColor }
    .db { position: absolute; top: .15rem; right: .45rem; color: var(--soft); font-size: .7rem; font-variant-numeric: tabular-nums }
    [type=range] { -webkit-appearance: none; appearance: none; width: 4.5rem; height: 1.5rem; margin: 0 0 0 .3rem; background: none; cursor: pointer }
    [type=range]::-webkit-slider-runnable-track { height: 3px; border-radius: 2px; background: linear-gradient(to right, var(--soft) var(--fill), var(--line) 0) }
    [type=range]::-webkit-slider-thumb { -webkit-appearance: none; width: 13px; height: 13px; margin-top: -5px; border-radius: 50%; border: 0; background: currentColor }
    [type=range]::-moz-range-track { height: 3px; border-radius: 2px; background: linear-gradient(to right, var(--soft) var(--fill), var(--line) 0) }
    [type=range]::-moz-range-thumb { width: 13px; height: 13px; border-radius: 50%; border: 0; background: currentColor }
    .pan { width: 2.6rem; --fill: 0% }
    .volume { width: 4rem; --fill: 0% }
    .ruler { position: relative; height: 1.5rem; overflow: hidden; cursor: pointer; touch-action: pan-y; color: var(--soft); font-size: .7rem; font-variant-numeric: tabular-nums }
    .ruler span { position: absolute; bottom: 0; padding: 0 0 .15rem .3rem; border-left: 1px solid var(--line); white-space: nowrap; pointer-events: none }
    .lane { position: relative; height: 3.25rem; border-top: 1px solid var(--line); overflow: hidden; cursor: pointer; touch-action: pan-y }
    .head { border-top: 1px solid var(--line) }
    .lane svg { width: 100%; height: 100%; fill: var(--stem);
      -webkit-mask: linear-gradient(to right, #000 var(--at), #0009 0); mask: linear-gradient(to right, #000 var(--at), #0009 0) }
    .peak { opacity: .6 }
    .lane::after, .ruler::after { content: ""; position: absolute; top: 0; bottom: 0; left: clamp(0px, calc(var(--at) - .75px), calc(100% - 1.5px)); width: 1.5px; background: currentColor; pointer-events: none }
    .lane.silent :is(svg, canvas) { opacity: .4; filter: grayscale(1) }
    .picture { position: absolute; inset: 0; display: none }
    .picture canvas { position: absolute; top: 0; height: 100% }
    .strip i { position: absolute; bottom: 0; height: 5px; background: var(--stem) }
    .strip:not(:empty) { position: absolute; inset: auto 0 0; height: 5px; background: var(--line) }
    .spectral .picture { display: block }
    .spectral .lane { height: 5rem }
    .spectral .lane svg { display: none }
    [data-region] :is(.lane, .ruler)::before { content: ""; position: absolute; z-index: 1; top: 0; bottom: 0; left: var(--from);
      width: calc(var(--to) - var(--from)); background: color-mix(in srgb, currentColor 12%, transparent);
      border: solid color-mix(in srgb, currentColor 55%, transparent); border-width: 0 1px; pointer-events: none }
    .note, .status:not(:empty) { padding: .45rem .8rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .8rem }
    :focus-visible { outline: 2px solid #4b8bf5; outline-offset: 1px }
    .ruler:focus-visible, .play:focus-visible { outline-offset: -2px }
    slot { display: block; margin-top: .75rem }
    @container (max-width: 620px) {
      .lanes { grid-template-columns: minmax(0, 1fr) }
      .corner { display: none }
      .head { border-right: 0; padding: .35rem .8rem 0 }
      .name { max-width: none }
      .lane { border-top: 0; height: 2.75rem }
      .systems { order: 1; width: 100% }
      .systems button { flex: 1 }
    }
    @media (pointer: coarse) {
      .controls button, .tool { width: 44px; height: 44px }
      .systems button, .presets { min-height: 44px }
      .controls { gap: .45rem }
      [type=range] { height: 2.1rem }
      [type=range]::-webkit-slider-thumb { width: 20px; height: 20px; margin-top: -8.5px }
      [type=range]::-moz-range-thumb { width: 20px; height: 20px }
    }`;

  if (!customElements.get(TAG)) customElements.define(TAG, StemPlayer);
  // A second player is parsed when the class is known already: its own script, right behind it, builds it. JupyterLab
  // runs the script while it still moves the outputs into the page, when not all of them are upgraded yet.
  for (const player of document.querySelectorAll(TAG)) {
    customElements.upgrade(player);
    player.build();
  }
})();
