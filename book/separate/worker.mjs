// The search, beside the page: each run of the graph is one iteration of flowsep/search.py. Messages come from page.js.
import FFT from "./fft.mjs";
import { analyse, picture, stems } from "./sound.mjs";

const here = (name) => new URL(name, import.meta.url).href;
let facts = null, session = null, ort = null;
let job = null; // what is searched, and how far it is
let alpha = 0, running = false;

/** Load runtime and graph once: WebGPU where there is an adapter that runs the graph, else WebAssembly. */
async function load() {
  if (session) return;
  const graph = new Uint8Array(await (await fetch(here("graph.onnx"))).arrayBuffer());
  const open = async (build, provider) => {
    ort = await import(`./${build}`);
    Object.assign(ort.env.wasm, { wasmPaths: here("./"), numThreads: 1, proxy: false });
    session = await ort.InferenceSession.create(graph, { executionProviders: [provider] });
    postMessage({ engine: provider === "webgpu" ? "WebGPU" : "WebAssembly" });
  };
  if (await self.navigator.gpu?.requestAdapter().catch(() => null)) {
    try {
      await open("ort.webgpu.min.mjs", "webgpu");
      await begin([0], new Float32Array(facts.bins * facts.squeeze), facts.squeeze).step();
      return;
    } catch (error) {
      postMessage({ note: `WebGPU did not run the search (${error.message}); WebAssembly does.` });
    }
  }
  await open("ort.wasm.min.mjs", "wasm");
}

/** Latents and Adam's moments at zero; `step` is one iteration. */
function begin(chosen, target, frames) {
  const tensor = (data, dims) => new ort.Tensor("float32", data, dims);
  const shape = [chosen.length, facts.bins * facts.squeeze, frames / facts.squeeze];
  const zeros = () => tensor(new Float32Array(shape[0] * shape[1] * shape[2]), shape);
  let state = { z: zeros(), first: zeros(), second: zeros() };
  const fixed = {
    target: tensor(target, [facts.bins, frames]), chosen: new ort.Tensor("int32", Int32Array.from(chosen), shape.slice(0, 1)),
  };
  let steps = 0;
  return {
    get steps() { return steps; },
    async step() {
      const number = (value) => tensor(Float32Array.of(value), []);
      const out = await session.run({ ...fixed, ...state, step: number(++steps), alpha: number(alpha) });
      state = { z: out.next_z, first: out.next_first, second: out.next_second };
      return { estimates: out.estimates.data, misfit: out.misfit.data[0], loss: out.loss.data[0] };
    },
  };
}

async function run() {
  running = true;
  while (running && job.search.steps < job.iterations) {
    const start = performance.now();
    const { estimates, misfit } = await job.search.step();
    const seconds = (performance.now() - start) / 1000, size = facts.bins * job.analysed.padded;
    job.estimates = estimates;
    const pictures = job.chosen.map((_, s) => picture(estimates, s * size, job.analysed, facts, job.loudest));
    postMessage({ step: job.search.steps, misfit, seconds, pictures });
    await new Promise((resolve) => setTimeout(resolve)); // messages come in between
  }
  running = false;
  postMessage({ rest: true, ended: job.search.steps >= job.iterations, stems: present() });
}

const present = () => stems(FFT, job.channels, job.estimates, job.chosen.length, job.analysed, facts);

const answers = {
  async start({ channels, chosen, iterations, ...more }) {
    facts = more.facts;
    alpha = more.alpha;
    const analysed = analyse(FFT, channels, facts);
    const loudest = analysed.target.reduce((a, b) => Math.max(a, b), 1e-9);
    postMessage({ mixture: picture(analysed.target, 0, analysed, facts, loudest), frames: analysed.frames });
    await load();
    job = { channels, chosen, iterations, analysed, loudest, search: begin(chosen, analysed.target, analysed.padded) };
    await run();
  },
  go: run,
  stop() { running = false; },
  weigh({ alpha: next }) { alpha = next; },
  hear({ number }) { postMessage({ heard: number, audio: present()[number] }); },
};

onmessage = async ({ data }) => {
  try {
    await answers[data.do](data);
  } catch (error) {
    running = false;
    postMessage({ error: error.message || String(error) });
  }
};
