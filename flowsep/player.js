// The stem player: a custom element that turns the plain <audio> tags inside it into a small mixing desk.
// Every name reaches the page through textContent or an attribute, never as markup. Colours are the page's own text
// colour mixed with nothing, so that the player follows any theme, light or dark, without asking which one it is.
(() => {
  "use strict";
  const TAG = "flowsep-player";
  const FADE = 0.006; // seconds: time constant of every change of level, short enough to feel immediate, too slow to click
  const SILENT_DB = -30; // the gain slider's left end means off
  const ICON = {
    play: "M7 4.5v15l12.5-7.5z",
    pause: "M7 5h3.6v14H7zM13.4 5H17v14h-3.6z",
    repeat: "M5 12.5v-1A4.5 4.5 0 0 1 9.5 7H19m-3-3 3 3-3 3M19 11.5v1A4.5 4.5 0 0 1 14.5 17H5m3 3-3-3 3-3",
  };

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
      return this._loop ? t % this._voice.length : Math.min(t, this._duration);
    }

    get system() {
      return this._system;
    }

    get systems() {
      return [...this._systems.keys()];
    }

    /** The factor with which each stem is heard now, by name: solo beats mute beats gain. */
    get levels() {
      const soloed = this._stems.some((stem) => stem.solo);
      const level = (stem) =>
        (soloed ? !stem.solo : stem.mute) || stem.db <= SILENT_DB ? 0 : 10 ** (stem.db / 20);
      return Object.fromEntries(this._stems.map((stem) => [stem.name, level(stem)]));
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

    /** Move the playhead to `t` seconds, playing or not. */
    seek(t) {
      const sounds = Boolean(this._voice);
      this._end();
      this._position = Math.min(Math.max(0, t), this._duration);
      if (sounds) this._begin();
      this._paint();
    }

    /** Hear another system at the same playhead; its stems start on the same audio frame grid as those that sound. */
    async select(system) {
      if (!this._systems.has(system)) return;
      this._system = system;
      this._draw();
      if (!this._voice) return;
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
    }

    // ---- sound --------------------------------------------------------------------------------------------------
    /** Decode one system's stems, once, each to exactly the common number of frames so that loops stay in step. */
    _load(system) {
      const decode = async (audio) => {
        const source = audio.getAttribute("src");
        const decoded = await context.decodeAudioData(bytes(source.slice(source.indexOf(",") + 1)).buffer);
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
      const output = context.createGain();
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
      const frames = Math.round(voice.length * context.sampleRate);
      let first = Math.round((voice.position + when - voice.time) * context.sampleRate);
      if (this._loop) first %= frames;
      if (first >= frames) return context.currentTime;
      const levels = Object.values(this.levels);
      const nodes = this._decoded.get(system).map((buffer, i) => {
        const source = context.createBufferSource();
        const gain = context.createGain();
        source.buffer = buffer;
        source.loop = this._loop;
        gain.gain.value = voice.nodes.size ? 0 : levels[i];
        source.connect(gain).connect(voice.output);
        source.start(when, first / context.sampleRate);
        return { source, gain };
      });
      if (!voice.nodes.size) nodes[0].source.onended = () => voice === this._voice && this._finish();
      voice.nodes.set(system, nodes);
      return when;
    }

    /** Let every gain follow the desk from `time` on: coherent cross-fade between systems, no clicks. */
    _mix(time = context?.currentTime) {
      const voice = this._voice;
      if (!voice || !voice.nodes.has(this._system)) return; // the chosen system is still being decoded
      const levels = Object.values(this.levels);
      for (const [system, nodes] of voice.nodes)
        nodes.forEach(({ gain }, i) =>
          gain.gain.setTargetAtTime(system === this._system ? levels[i] : 0, time, FADE));
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
      this._paint();
    }

    // ---- the desk -----------------------------------------------------------------------------------------------
    build() {
      const audios = [...this.querySelectorAll("audio[data-stem]")];
      if (this.shadowRoot || !audios.length) return;
      Object.assign(this, {
        _playing: false, _loop: false, _position: 0, _ticket: 0, _voice: null,
        _buffers: new Map(), _decoded: new Map(), _systems: new Map(),
      });
      this._duration = Number(this.dataset.seconds);
      for (const audio of audios) {
        const system = audio.dataset.system;
        if (!this._systems.has(system)) this._systems.set(system, []);
        this._systems.get(system).push(audio);
      }
      this._system = this.systems[0];
      const names = this._systems.get(this._system).map((audio) => audio.dataset.stem);
      // A mixture beside its stems would double them: it starts muted, and solo brings it back for comparison.
      this._stems = names.map((name) => ({ name, db: 0, solo: false, mute: name === "mixture" && names.length > 1 }));
      this._stems.forEach((stem, i) => this._lane(stem, this._systems.get(this._system)[i].dataset.color));
      this._desk();
      followTheme();
      this._draw();
      this._paint();
    }

    _desk() {
      const title = this.dataset.title;
      this._button = make("button", { class: "play", type: "button", onclick: () => this.toggle() }, icon("play"));
      this._time = make("span", { class: "now" });
      this._repeat = make(
        "button",
        { class: "repeat", type: "button", title: "Repeat (L)", "aria-label": "Repeat", onclick: () => this._setLoop(!this._loop) },
        icon("repeat"));
      const choice = make("div", { class: "systems", role: "radiogroup", "aria-label": "System" });
      if (this.systems.length > 1)
        for (const name of this.systems) {
          const radio = make("input", { type: "radio", name: "system", onchange: () => this.select(name) });
          radio.value = name;
          choice.append(make("label", {}, radio, make("span", {}, name)));
        }
      this._choice = choice;
      this._ruler = make("div", { class: "ruler", role: "slider", tabindex: "0", "aria-label": "Position",
        "aria-valuemin": "0", "aria-valuemax": this._duration.toFixed(1) });
      const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((s) => this._duration / s <= 8) ?? 600;
      for (let t = 0; t < this._duration - step * 0.3; t += step) {
        const text = this._duration < 60 ? String(Math.round(t * 10) / 10) : clock(t, this._duration).slice(0, -2);
        const tick = make("span", {}, t ? text : "0 s");
        tick.style.left = `${(100 * t) / this._duration}%`;
        this._ruler.append(tick);
      }
      this._scrub(this._ruler);
      this._status = make("p", { class: "status", role: "status" });
      const desk = make("div", { class: "desk", role: "group", "aria-label": title ? `Stem player: ${title}` : "Stem player" });
      if (title) desk.append(make("p", { class: "title" }, title));
      desk.append(
        make("div", { class: "bar" }, this._button,
          make("span", { class: "time" }, this._time, make("span", { class: "total" }, ` / ${clock(this._duration)} s`)),
          choice, this._repeat),
        make("div", { class: "lanes" }, make("div", { class: "corner" }), this._ruler,
          ...this._stems.flatMap((stem) => [stem.head, stem.lane])));
      if (this.dataset.note) desk.append(make("p", { class: "note" }, this.dataset.note));
      desk.append(this._status);
      desk.addEventListener("keydown", (event) => this._key(event));
      const style = make("style");
      style.textContent = CSS;
      this._root = this.attachShadow({ mode: "open" });
      this._root.append(style, desk);
      this._surface = desk;
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
      stem.readout = make("span", { class: "db", "aria-hidden": "true" });
      stem.head = make("div", { class: "head", role: "group", "aria-label": stem.name },
        make("span", { class: "name", title: stem.name }, stem.name),
        make("span", { class: "controls" }, stem.soloButton, stem.muteButton, stem.slider));
      stem.wave = make("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
      stem.lane = make("div", { class: "lane" }, stem.wave, stem.readout);
      for (const node of [stem.head, stem.lane]) node.style.setProperty("--color", color);
      this._scrub(stem.lane);
    }

    /** Pointer down or dragged on a lane: the playhead follows. */
    _scrub(lane) {
      const go = (event) => {
        const box = lane.getBoundingClientRect();
        this.seek(((event.clientX - box.left) / box.width) * this._duration);
      };
      lane.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        lane.setPointerCapture(event.pointerId);
        go(event);
        this._ruler.focus({ preventScroll: true });
        event.preventDefault();
      });
      lane.addEventListener("pointermove", (event) => lane.hasPointerCapture(event.pointerId) && go(event));
    }

    _key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { target, key, code } = event;
      const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code);
      const stem = digit && this._stems[digit[1] - 1];
      if (key === " " && target.matches("button, [type=radio]")) return; // the button's own key
      if (/^(Arrow|Home|End|Page)/.test(key) && target.matches("input")) return; // the slider's own keys
      const far = event.shiftKey ? 5 : 1;
      if (key === " " || key === "k") this.toggle();
      else if (key === "ArrowLeft" || key === "ArrowDown") this.seek(this.currentTime - far);
      else if (key === "ArrowRight" || key === "ArrowUp") this.seek(this.currentTime + far);
      else if (key === "Home") this.seek(0);
      else if (key === "End") this.seek(this._duration);
      else if (key === "l") this._setLoop(!this._loop);
      else if (key === "s") this.select(this.systems[(this.systems.indexOf(this._system) + 1) % this.systems.length]);
      else if (stem) (event.shiftKey ? stem.muteButton : stem.soloButton).click();
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    /** The waveforms of the current system. */
    _draw() {
      this._systems.get(this._system).forEach((audio, i) => {
        const values = bytes(audio.dataset.peaks);
        const n = values.length / 2;
        const wave = this._stems[i].wave;
        wave.setAttribute("viewBox", `0 -1.04 ${n} 2.08`);
        wave.replaceChildren(
          make("path", { class: "peak", d: outline(values.subarray(0, n)) }),
          make("path", { class: "rms", d: outline(values.subarray(n)) }));
      });
      for (const radio of this._choice.querySelectorAll("input")) radio.checked = radio.value === this._system;
    }

    /** The playhead and the clock; assistive technology hears of whole seconds while the sound runs. */
    _tick() {
      const t = this.currentTime;
      this._surface.style.setProperty("--at", `${((100 * t) / this._duration).toFixed(3)}%`);
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
      for (const stem of this._stems) {
        stem.soloButton.setAttribute("aria-pressed", stem.solo);
        stem.muteButton.setAttribute("aria-pressed", stem.mute);
        stem.slider.value = stem.db;
        stem.slider.setAttribute("aria-valuetext", decibels(stem.db));
        stem.slider.style.setProperty("--fill", `${(100 * (stem.db - SILENT_DB)) / (6 - SILENT_DB)}%`);
        stem.readout.textContent = stem.db ? decibels(stem.db) : "";
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
    button, input { font: inherit; color: inherit }
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
    .repeat svg { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round }
    .play { width: 2.5rem; height: 2.5rem; border-radius: 50%; background: var(--tint) }
    .play svg { width: 1.35rem }
    .repeat { width: 2rem; height: 2rem; margin-left: auto }
    .repeat svg { width: 1.1rem; opacity: .72 }
    .repeat[aria-pressed=true] { background: color-mix(in srgb, currentColor 16%, transparent);
      border-color: currentColor }
    .repeat[aria-pressed=true] svg { opacity: 1 }
    .systems { display: flex; flex-wrap: wrap; gap: 2px; padding: 2px; border-radius: 8px; background: var(--tint) }
    .systems:empty { display: none }
    .systems label { position: relative; cursor: pointer }
    .systems input { position: absolute; inset: 0; margin: 0; opacity: 0; cursor: pointer }
    .systems span { display: block; padding: .25rem .7rem; border: 1px solid transparent; border-radius: 6px; color: var(--soft) }
    .systems label:hover span { color: inherit }
    .systems input:checked + span { color: inherit; font-weight: 600; border-color: color-mix(in srgb, currentColor 34%, transparent);
      background: color-mix(in srgb, currentColor 9%, transparent) }
    .lanes { display: grid; grid-template-columns: minmax(15.5rem, auto) minmax(0, 1fr); border-top: 1px solid var(--line) }
    .head, .lane { --stem: color-mix(in srgb, var(--color) 84%, currentColor) } /* a little darker by day, lighter by night */
    .head, .corner { border-right: 1px solid var(--line) }
    .head { display: flex; align-items: center; justify-content: space-between; gap: .9rem; padding: 0 .7rem 0 .8rem }
    .name { max-width: 7rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
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
    .ruler { position: relative; height: 1.5rem; overflow: hidden; cursor: pointer; touch-action: pan-y; color: var(--soft); font-size: .7rem; font-variant-numeric: tabular-nums }
    .ruler span { position: absolute; bottom: 0; padding: 0 0 .15rem .3rem; border-left: 1px solid var(--line); white-space: nowrap; pointer-events: none }
    .lane { position: relative; height: 3.25rem; border-top: 1px solid var(--line); overflow: hidden; cursor: pointer; touch-action: pan-y }
    .head { border-top: 1px solid var(--line) }
    .lane svg { width: 100%; height: 100%; fill: var(--stem);
      -webkit-mask: linear-gradient(to right, #000 var(--at), #0009 0); mask: linear-gradient(to right, #000 var(--at), #0009 0) }
    .peak { opacity: .6 }
    .lane::after, .ruler::after { content: ""; position: absolute; top: 0; bottom: 0; left: clamp(0px, calc(var(--at) - .75px), calc(100% - 1.5px)); width: 1.5px; background: currentColor; pointer-events: none }
    .lane.silent svg { opacity: .4; filter: grayscale(1) }
    .note, .status:not(:empty) { padding: .45rem .8rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .8rem }
    :focus-visible, .systems input:focus-visible + span { outline: 2px solid #4b8bf5; outline-offset: 1px }
    .ruler:focus-visible, .play:focus-visible { outline-offset: -2px }
    slot { display: block; margin-top: .75rem }
    @container (max-width: 620px) {
      .lanes { grid-template-columns: minmax(0, 1fr) }
      .corner { display: none }
      .head { border-right: 0; padding: .35rem .8rem 0 }
      .name { max-width: none }
      .lane { border-top: 0; height: 2.75rem }
      .systems { order: 1; width: 100% }
      .systems label { flex: 1; text-align: center }
    }
    @media (pointer: coarse) {
      .controls button { width: 2.1rem; height: 2.1rem }
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
