// The page Separate: a custom element that takes ten seconds of sound apart in the reader's browser. The work is done by
// worker.mjs; this file has the controls, the pictures and the sound. Names reach the page as text, never as markup.
(() => {
  "use strict";
  const TAG = "flowsep-separate";
  const HERE = new URL(".", document.currentScript.src);
  const SECONDS = 10, RATE = 44100; // of an excerpt; Hz, four times the priors' rate
  const SEARCHING = "Searching. Press a play button to hear the present state.";
  const SHORTEST = 0.3; // seconds that are worth a search
  const WEIGHTS = [0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2];
  const LICENCE = "Falcon 69 by The Easton Ellises, CC BY-NC-SA 3.0; the estimates are adaptations under the same licence.";
  const SERVE = "python -m http.server --directory book/_build/html";
  const COLUMNS = 800; // of a waveform in the player
  const ROWS = 96; // of a picture
  const PLAY = "M7 4.5v15l12.5-7.5z", HALT = "M6 6h12v12H6z";
  const clock = (t) => `${Math.floor(Math.round(t) / 60)}:${String(Math.round(t) % 60).padStart(2, "0")}`;

  /** An element with attributes, listeners (keys that start with "on") and children; strings become text nodes. */
  function make(tag, attributes = {}, ...children) {
    const drawn = ["svg", "path", "polyline"].includes(tag);
    const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  const icon = (d) => make("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, make("path", { d }));

  /** 32-bit float WAV of channels, as a data URL. */
  function wav(channels) {
    const samples = channels[0].length, size = 4 * samples * channels.length;
    const view = new DataView(new ArrayBuffer(44 + size));
    const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    text(0, "RIFF"); view.setUint32(4, 36 + size, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true);
    view.setUint16(20, 3, true); view.setUint16(22, channels.length, true); view.setUint32(24, RATE, true);
    view.setUint32(28, 4 * RATE * channels.length, true); view.setUint16(32, 4 * channels.length, true);
    view.setUint16(34, 32, true); text(36, "data"); view.setUint32(40, size, true);
    for (let i = 0, at = 44; i < samples; i++) for (const channel of channels) { view.setFloat32(at, channel[i], true); at += 4; }
    return new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(new Blob([view], { type: "audio/wav" }));
    });
  }

  /** What the player draws of a stem: bytes of peaks, then of root mean squares, both (level / top)^0.6, in base64. */
  function outline(channels, top) {
    const samples = channels[0].length, columns = Math.min(COLUMNS, samples), heights = new Float64Array(2 * columns);
    for (let k = 0; k < columns; k++) {
      const from = Math.floor((k * samples) / columns), to = Math.floor(((k + 1) * samples) / columns);
      let power = 0;
      for (const channel of channels)
        for (let i = from; i < to; i++) {
          heights[k] = Math.max(heights[k], Math.abs(channel[i]));
          power += channel[i] ** 2 / channels.length;
        }
      heights[columns + k] = Math.sqrt(power / (to - from));
    }
    return btoa(String.fromCharCode(...heights.map((h) => Math.round(255 * Math.min(1, h / top) ** 0.6))));
  }

  class Separate extends HTMLElement {
    async connectedCallback() {
      if (this.shadowRoot) return;
      this.attachShadow({ mode: "open" }).append(make("style"));
      this.shadowRoot.firstChild.textContent = CSS;
      if (location.protocol === "file:") {
        this.shadowRoot.append(make("p", { class: "box" }, "From disk a browser may not load the model, so this page needs a web" +
          " server. In the project's folder call ", make("code", {}, SERVE), " and open ",
          make("code", {}, "http://localhost:8000/separate.html"), "."));
        return;
      }
      this._facts = await (await fetch(new URL("facts.json", HERE))).json();
      this._build();
    }

    _build() {
      const { sources, ticked, colors, alpha, megabytes } = this._facts;
      const button = (label, onclick, kind = "") => make("button", { type: "button", class: kind, onclick }, label);
      this._file = make("input", { type: "file", accept: "audio/*,video/mp4", hidden: "", "aria-label": "Audio file",
        onchange: () => this._take(this._file.files[0]) });
      this._record = button("Record ten seconds", () => this._listen());
      this._sources = [button("Falcon 69 (example)", () => this._example()), button("Choose a file", () => this._file.click()), this._record];
      this._name = make("p", { class: "name" }, "No sound yet: take the example, drop a file here, or record.");
      this._from = make("input", { type: "range", min: 0, step: 0.5, id: "from", onchange: () => this._cut(Number(this._from.value)) });
      this._where = make("p", { class: "where", hidden: "" }, make("label", { for: "from" }, "Excerpt from"), this._from);
      this._ticks = sources.map((name) => make("input", { type: "checkbox", value: name, id: `prior-${name}`,
        ...(ticked.includes(name) && { checked: "" }), onchange: () => this._paint() }));
      const priors = make("fieldset", {}, make("legend", {}, "Priors that explain it"), ...sources.map((name, k) =>
        make("label", { style: `--color: ${colors[name]}` }, this._ticks[k], name)));
      this._slider = make("input", { type: "range", min: 0, max: WEIGHTS.length - 1, step: 1, value: WEIGHTS.indexOf(alpha), id: "weight",
        oninput: () => this._weigh() });
      this._weight = make("output", { for: "weight" });
      this._main = button("Separate", () => this._press(), "main");
      this._stop = button("Stop", () => this._halt());
      this._status = make("p", { class: "status", role: "status" });
      this._lanes = make("div", { class: "lanes" });
      this._curve = make("polyline", { points: "" });
      this._misfit = make("p", { class: "misfit" });
      const picture = make("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": "The misfit after each iteration" }, this._curve);
      this._chart = make("div", { class: "chart", hidden: "" }, this._misfit, picture);
      this._stems = make("div", { class: "stems" });
      const box = make("div", { class: "box",
        ondragover: (event) => { event.preventDefault(); box.classList.add("over"); },
        ondragleave: () => box.classList.remove("over"),
        ondrop: (event) => { event.preventDefault(); box.classList.remove("over"); this._take(event.dataTransfer.files[0]); } },
        make("div", { class: "row" }, ...this._sources, this._file),
        this._name, this._where, priors,
        make("p", { class: "where" }, make("label", { for: "weight" }, "Weight of the priors"), this._slider, this._weight),
        make("div", { class: "row" }, this._main, this._stop), this._status,
        this._lanes, this._chart, this._stems,
        make("p", { class: "note" }, "Nothing leaves your machine: the search runs in this page. The first press" +
          ` loads ${megabytes.wasm} MB from this site, or ${megabytes.webgpu} MB where the browser has WebGPU;` +
          ` each further prior has ${megabytes.prior} MB.`));
      this.shadowRoot.append(box);
      this._weigh();
      this._paint();
    }

    // ---- the sound that is taken apart --------------------------------------------------------------------------
    async _example() {
      const answer = await fetch(new URL("example.flac", HERE));
      await this._take(new File([await answer.blob()], "Falcon 69"), LICENCE);
    }

    /** Decode a file: any rate becomes 44.1 kHz; of more than two channels the first two. */
    async _take(file, licence = "") {
      this._file.value = "";
      if (!file || this._busy) return;
      let decoded = null;
      try {
        decoded = await new OfflineAudioContext(2, 1, RATE).decodeAudioData(await file.arrayBuffer());
      } catch {
        return this._refuse(`“${file.name}” is no audio that this browser can decode; choose a WAV, MP3, FLAC, OGG or M4A file.`);
      }
      if (decoded.duration < SHORTEST) return this._refuse(`“${file.name}” is shorter than ${SHORTEST} s; choose a longer sound.`);
      this._whole = { name: file.name, licence, decoded };
      this._from.max = Math.max(0, decoded.duration - SECONDS);
      this._where.hidden = decoded.duration <= SECONDS;
      this._from.value = this._from.max / 2; // the middle: many songs begin quietly
      this._cut(Number(this._from.value));
    }

    _refuse(why) {
      this._status.textContent = why;
    }

    _cut(start) {
      const { name, decoded } = this._whole, long = decoded.duration > SECONDS;
      const first = long ? Math.round(start * RATE) : 0, count = Math.min(2, decoded.numberOfChannels);
      this._channels = Array.from({ length: count }, (_, c) => decoded.getChannelData(c).slice(first, first + SECONDS * RATE));
      const given = decoded.numberOfChannels;
      const kind = given > 2 ? `the first two of ${given} channels` : given === 2 ? "stereo" : "mono";
      this._name.textContent = long
        ? `${name}: ten seconds from ${clock(start)} on, of ${clock(decoded.duration)}, ${kind}.`
        : `${name}: ${decoded.duration.toFixed(1)} s, ${kind}.`;
      this._status.textContent = "";
      this._stopped = false;
      this._clear();
      if (!this._channels.some((channel) => channel.some(Boolean))) {
        this._channels = null;
        this._refuse("This sound is silent; choose another one.");
      }
      this._paint();
    }

    /** Ten seconds of the microphone; a second press ends sooner. */
    async _listen() {
      if (this._recorder) return this._recorder.stop();
      if (!navigator.mediaDevices) return this._refuse("Browsers give the microphone to pages from localhost or over https alone. Choose a file instead.");
      const settings = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      let stream = null;
      try {
        stream = await navigator.mediaDevices.getUserMedia({ audio: settings });
      } catch (error) {
        return this._refuse(`No microphone: ${error.message}. Choose a file instead.`);
      }
      const parts = [], recorder = (this._recorder = new MediaRecorder(stream));
      recorder.ondataavailable = ({ data }) => parts.push(data);
      recorder.onstop = () => {
        stream.getTracks().forEach((track) => track.stop());
        this._recorder = null;
        this._record.textContent = "Record ten seconds";
        this._take(new File(parts, "Your recording"));
      };
      recorder.start();
      this._record.textContent = "Recording; press to end";
      setTimeout(() => recorder.state === "recording" && recorder.stop(), 1000 * SECONDS);
    }

    // ---- the search ---------------------------------------------------------------------------------------------
    _weigh() {
      const alpha = WEIGHTS[Number(this._slider.value)];
      this._weight.textContent = alpha ? `α = ${alpha}` : "α = 0: likelihood alone";
      this._slider.setAttribute("aria-valuetext", this._weight.textContent);
      this._worker?.postMessage({ do: "weigh", alpha });
    }

    _press() {
      if (this._stopped) {
        this._stopped = false;
        this._busy = true;
        this._start = performance.now() - this._spent;
        this._stems.replaceChildren();
        this._status.textContent = SEARCHING;
        this._worker.postMessage({ do: "go" });
        this._paint();
        return;
      }
      this._chosen = this._ticks.map((tick, k) => (tick.checked ? k : -1)).filter((k) => k >= 0);
      this._busy = true;
      this._clear();
      this._start = performance.now();
      this._values = [];
      this._worker ??= this._hire();
      this._status.textContent = "Loading the runtime and the priors…";
      this._worker.postMessage({ do: "start", facts: this._facts, chosen: this._chosen, channels: this._channels,
        iterations: this._facts.iterations, alpha: WEIGHTS[Number(this._slider.value)] });
      this._lane("mixture", this._facts.colors.mixture, () => this._play("mixture", this._channels));
      for (const [number, k] of this._chosen.entries()) {
        const name = this._facts.sources[k];
        this._lane(name, this._facts.colors[name], () => this._worker.postMessage({ do: "hear", number }));
      }
      this._paint();
    }

    _halt() {
      if (this._busy) this._worker.postMessage({ do: "stop" });
      else {
        this._stopped = false;
        this._clear();
        this._status.textContent = "";
        this._paint();
      }
    }

    _hire() {
      const worker = new Worker(new URL("worker.mjs", HERE), { type: "module" });
      worker.onmessage = ({ data }) => this._answer(data);
      worker.onerror = (event) => this._answer({ error: event.message || "the worker could not be loaded" });
      return worker;
    }

    _answer(data) {
      const { sources, iterations } = this._facts;
      if (data.engine) this._engine = data.engine;
      if (data.note) this._note = data.note;
      if (data.mixture) {
        this._frames = data.frames;
        this._draw(this._lanes.children[0], data.mixture);
      }
      if (data.pictures) {
        data.pictures.forEach((levels, s) => this._draw(this._lanes.children[s + 1], levels));
        this._values.push(data.misfit);
        this._chart.hidden = false;
        this._lanes.classList.add("heard");
        const highest = Math.max(...this._values, 1e-9);
        this._curve.setAttribute("points", this._values.map((v, i) =>
          `${((100 * i) / Math.max(1, iterations - 1)).toFixed(2)},${(40 - (38 * v) / highest).toFixed(2)}`).join(" "));
        this._misfit.textContent = `Misfit ${data.misfit.toPrecision(3)} after ${data.step} of ${iterations} iterations, ` +
          `${data.seconds.toFixed(2)}\u00a0s each by ${this._engine}`;
        if (data.step === 1) this._status.textContent = this._note || SEARCHING;
      }
      if (data.audio) this._play(sources[this._chosen[data.heard]], data.audio);
      if (data.stems) {
        this._busy = false;
        this._stopped = !data.ended;
        this._spent = performance.now() - this._start;
        this._status.textContent = data.ended ? `Done in ${(this._spent / 1000).toFixed(0)} s.` : "Stopped. Go on, or keep these stems.";
        this._show(data.stems);
        this._paint();
      }
      if (data.error) {
        this._busy = this._stopped = false;
        this._worker.terminate();
        this._worker = null;
        this._refuse(`The search ended: ${data.error}. Reload the page, or try another browser.`);
        this._paint();
      }
    }

    // ---- pictures and sound -------------------------------------------------------------------------------------
    _lane(name, color, onclick) {
      const play = make("button", { type: "button", class: "play", onclick: () => (this._sounds === name ? this._silence() : onclick()) }, icon(PLAY));
      const lane = make("div", { class: "lane", style: `--color: ${color}` }, make("div", { class: "head" }, play, make("span", {}, name)),
        make("canvas", { role: "img", "aria-label": `Spectrogram of ${name}` }));
      Object.assign(lane, { play, color, name });
      this._lanes.append(lane);
      this._label(lane);
    }

    _label({ play, name }) {
      const on = this._sounds === name;
      play.replaceChildren(icon(on ? HALT : PLAY));
      play.setAttribute("aria-label", `${on ? "Stop" : "Play"} ${name}`);
    }

    _draw(lane, levels) {
      const canvas = lane.querySelector("canvas"), pen = canvas.getContext("2d");
      Object.assign(canvas, { width: this._frames, height: ROWS });
      const image = pen.createImageData(this._frames, ROWS);
      levels.forEach((level, at) => { image.data[4 * at + 3] = level; });
      pen.putImageData(image, 0, 0);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = lane.color;
      pen.fillRect(0, 0, canvas.width, canvas.height);
    }

    async _play(name, channels) {
      this._silence();
      this._context ??= new AudioContext();
      await this._context.resume();
      const buffer = this._context.createBuffer(channels.length, channels[0].length, RATE);
      channels.forEach((channel, c) => buffer.copyToChannel(channel, c));
      const voice = (this._voice = this._context.createBufferSource());
      voice.buffer = buffer;
      voice.connect(this._context.destination);
      voice.onended = () => voice === this._voice && this._silence();
      voice.start();
      this._sounds = name;
      for (const lane of this._lanes.children) this._label(lane);
    }

    _silence() {
      const voice = this._voice;
      this._voice = this._sounds = null;
      voice?.stop();
      for (const lane of this._lanes.children) this._label(lane);
    }

    /** The stems in the book's player, whose script comes with the first of them. */
    async _show(all) {
      if (!customElements.get("flowsep-player"))
        await new Promise((resolve, reject) => document.head.append(make("script", { src: new URL("player.js", HERE).href, onload: resolve, onerror: reject })));
      const names = this._chosen.map((k) => this._facts.sources[k]);
      const stems = [...names.map((name, s) => [name, all[s]]), ["mixture", this._channels]];
      const top = stems.reduce((most, [, channels]) => channels.reduce((a, c) => c.reduce((b, v) => Math.max(b, Math.abs(v)), a), most), 1e-9);
      const tags = await Promise.all(stems.map(async ([name, channels]) => make("audio", { src: await wav(channels), preload: "none",
        "data-system": "", "data-stem": name, "data-color": this._facts.colors[name], "data-match": 1, "data-peaks": outline(channels, top) })));
      if (this._busy) return; // gone on meanwhile
      const player = make("flowsep-player", { "data-title": `${this._whole.name}, taken apart`, "data-note": "", "data-licence": this._whole.licence,
        "data-seconds": (this._channels[0].length / RATE).toFixed(6), "data-presets": JSON.stringify({ "all stems": names, mixture: ["mixture"] }) }, ...tags);
      this._stems.replaceChildren(player, ...(this._whole.licence ? [make("p", { class: "note" }, this._whole.licence)] : []));
      player.build();
    }

    _clear() {
      this._silence();
      this._lanes.classList.remove("heard");
      this._lanes.replaceChildren();
      this._stems.replaceChildren();
      this._chart.hidden = true;
    }

    _paint() {
      const ticked = this._ticks.some((tick) => tick.checked);
      this._main.textContent = this._stopped ? "Go on" : "Separate";
      this._main.disabled = this._busy || !this._channels || !ticked;
      this._stop.textContent = this._stopped ? "Start over" : "Stop";
      this._stop.hidden = !this._busy && !this._stopped;
      for (const tick of this._ticks) tick.disabled = this._busy || Boolean(this._stopped);
      for (const control of [...this._sources, this._from]) control.disabled = Boolean(this._busy);
      if (!ticked) this._refuse("Tick at least one prior.");
      else if (this._status.textContent.startsWith("Tick")) this._refuse("");
    }
  }

  const CSS = `
    :host { display: block; margin: 1rem 0; container-type: inline-size; font-size: .9375rem; line-height: 1.4;
      --soft: color-mix(in srgb, currentColor 75%, transparent); --line: color-mix(in srgb, currentColor 18%, transparent);
      --tint: color-mix(in srgb, currentColor 6%, transparent) }
    * { box-sizing: border-box }
    [hidden] { display: none !important }
    p, fieldset { margin: 0 }
    code { overflow-wrap: anywhere }
    button, input { font: inherit; color: inherit }
    .box { display: flex; flex-direction: column; gap: .8rem; padding: 1rem; border: 1px solid var(--line); border-radius: 10px }
    p.box { display: block }
    .box.over { outline: 2px dashed currentColor; outline-offset: -6px }
    .row { display: flex; flex-wrap: wrap; gap: .5rem }
    button { min-height: 2.5rem; padding: 0 .9rem; border: 1px solid var(--line); border-radius: 8px; background: var(--tint); cursor: pointer }
    button:hover:enabled { border-color: currentColor }
    button:disabled { cursor: default; opacity: .5 }
    .main { min-width: 9rem; font-weight: 600; border-color: currentColor; background: color-mix(in srgb, currentColor 12%, transparent) }
    .name { font-weight: 600; overflow-wrap: anywhere }
    fieldset { display: flex; flex-wrap: wrap; gap: .3rem .75rem; min-width: 0; padding: 0; border: 0 }
    legend { float: left; margin: 0 .4rem 0 0; padding: 0; font-size: inherit; line-height: 2.2rem; width: auto }
    fieldset label { display: inline-flex; align-items: center; gap: .4rem; min-height: 2.2rem; cursor: pointer }
    fieldset input { width: 1.15rem; height: 1.15rem; margin: 0; accent-color: var(--color) }
    .where { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem }
    .where input { flex: 1 1 9rem; min-width: 0; max-width: 22rem; height: 2rem; margin: 0; accent-color: currentColor; cursor: pointer }
    output { min-width: 5rem; font-variant-numeric: tabular-nums }
    .status:empty { display: none }
    .lanes { display: grid; gap: 4px }
    .lanes:empty, .stems:empty { display: none }
    .lane { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr); align-items: center; gap: .6rem }
    .head { display: flex; align-items: center; gap: .6rem }
    .head span { font-weight: 600; text-decoration: underline 3px var(--color); text-underline-offset: 4px }
    .play { display: grid; place-items: center; flex: none; width: 2.5rem; padding: 0; border-radius: 50% }
    .lanes:not(.heard) .lane:not(:first-child) .play { visibility: hidden }
    .play svg { width: 1.3rem; fill: currentColor }
    canvas { display: block; width: 100%; height: 5.5rem; border-radius: 4px; background: var(--tint) }
    .chart { display: grid; gap: .4rem }
    .chart svg { display: block; width: 100%; height: 5rem; border: solid var(--line); border-width: 0 0 1px 1px; overflow: visible }
    .misfit { font-variant-numeric: tabular-nums }
    polyline { fill: none; stroke: currentColor; stroke-width: 2; vector-effect: non-scaling-stroke }
    .note { font-size: .85rem; color: var(--soft) }
    :focus-visible { outline: 2px solid #4b8bf5; outline-offset: 2px }
    @container (max-width: 520px) {
      .row button { flex: 1 1 9rem }
      legend { float: none; width: 100% }
      .lane { grid-template-columns: minmax(0, 1fr); gap: .2rem }
      .lanes { gap: .6rem }
      canvas { height: 4.5rem }
    }`;

  customElements.define(TAG, Separate);
})();
