// The picture slider: a custom element that shows one of the <figure> tags inside it at a time. Labels stay in the tags
// that the page came with and are never read as markup. Colours are the page's own text colour, light or dark.
(() => {
  "use strict";
  const TAG = "flowsep-slider";
  const PACE = 700; // milliseconds a picture while it plays
  const ICON = { Play: "M7 4.5v15l12.5-7.5z", Pause: "M7 5h3.6v14H7zM13.4 5H17v14h-3.6z" };
  const FRAME = `
    <style>
      :host { display: block; margin: .75rem 0 1rem; color: inherit }
      ::slotted(*) { margin: 0 0 .4rem !important }
      ::slotted([hidden]) { display: none !important }
      .bar { display: flex; align-items: center; gap: .75rem; max-width: 40rem; font-size: .875rem }
      button { flex: none; display: grid; place-items: center; width: 2.5rem; height: 2.5rem; padding: 0; cursor: pointer;
        color: inherit; border: 1px solid color-mix(in srgb, currentColor 30%, transparent); border-radius: 50%;
        background: color-mix(in srgb, currentColor 6%, transparent) }
      button:hover { border-color: currentColor }
      svg { display: block; width: 1.35rem; fill: currentColor }
      input { flex: 1; min-width: 0; height: 2rem; margin: 0; accent-color: currentColor; cursor: pointer }
      .count { flex: none; font-variant-numeric: tabular-nums }
      :focus-visible { outline: 2px solid #4b8bf5; outline-offset: 2px }
      @media print { .bar { display: none } }
    </style>
    <slot></slot>
    <div class="bar" role="group">
      <button type="button"><svg viewBox="0 0 24 24" aria-hidden="true"><path></path></svg></button>
      <input type="range" min="0" step="1" value="0" aria-label="Step"><span class="count" aria-hidden="true"></span>
    </div>`;

  class PictureSlider extends HTMLElement {
    connectedCallback() {
      // While the page is still being parsed the pictures are not there yet; the script behind the element builds then.
      if (document.readyState !== "loading") this.build();
    }

    disconnectedCallback() {
      if (this.shadowRoot) this.pause();
    }

    get step() {
      return Number(this._range.value);
    }

    get playing() {
      return Boolean(this._timer);
    }

    build() {
      this._figures = [...this.querySelectorAll("figure")];
      if (this.shadowRoot || !this._figures.length) return;
      this.attachShadow({ mode: "open" }).innerHTML = FRAME; // a constant: no text of the page is in it
      [this._button, this._range, this._count] = ["button", "input", ".count"].map((s) => this.shadowRoot.querySelector(s));
      const title = this.querySelector("p");
      this.shadowRoot.querySelector(".bar").setAttribute("aria-label", title ? title.textContent : "Pictures");
      this._range.max = this._figures.length - 1;
      this._range.addEventListener("input", () => { this.pause(); this.show(this.step); this._sound(); });
      this._button.addEventListener("click", () => (this.playing ? this.pause() : this.play()));
      this.pause();
      this.show(Number(this.dataset.first ?? 0));
    }

    show(step) {
      this._figures.forEach((figure, i) => (figure.hidden = i !== step));
      this._range.value = step;
      this._range.setAttribute("aria-valuetext", this._figures[step].dataset.label);
      this._count.textContent = `${step + 1} / ${this._figures.length}`;
    }

    /** The next player takes the system that belongs to the picture; the playhead stays where it is. */
    _sound() {
      const system = this._figures[this.step].dataset.system;
      const after = (player) => this.compareDocumentPosition(player) & Node.DOCUMENT_POSITION_FOLLOWING;
      const player = [...document.querySelectorAll("flowsep-player")].find(after);
      if (system !== undefined && player?.systems?.includes(system)) player.select(system);
    }

    /** From here to the last picture, or from the first if the last is shown. */
    play() {
      if (this.playing) return;
      const last = this._figures.length - 1;
      if (this.step === last) this.show(0);
      this._timer = setInterval(() => {
        this.show(this.step + 1);
        this._sound();
        if (this.step === last) this.pause();
      }, PACE);
      this._name("Pause");
    }

    pause() {
      clearInterval(this._timer);
      this._timer = 0;
      this._name("Play");
    }

    _name(action) {
      this._button.setAttribute("aria-label", action);
      this._button.querySelector("path").setAttribute("d", ICON[action]);
    }
  }

  if (!document.getElementById(TAG)) {
    // In its dark theme the book puts HTML outputs on a light card; the controls have the page's own colours.
    const style = document.createElement("style");
    style.id = TAG;
    style.textContent = `html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(${TAG})
      { background: none; color: inherit; padding: 0 }`;
    document.head.append(style);
  }
  if (!customElements.get(TAG)) customElements.define(TAG, PictureSlider);
  for (const slider of document.querySelectorAll(TAG)) {
    customElements.upgrade(slider);
    slider.build();
  }
})();
