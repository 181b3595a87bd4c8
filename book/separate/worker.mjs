// The search, beside the page: each run of the graph is one iteration of flowsep/search.py. Messages come from page.js.
import FFT from "./fft.mjs";
import { analyse, picture, stems } from "./sound.mjs";

const here = (name) => new URL(name, import.meta.url).href;
const KINDS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array }; // of numbers in a prior's file
const priors = new Map(); // source -> the bytes of its prior
let facts = null, session = null, ort = null;
let job = null; // what is searched, and how far it is
let alpha = 0, running = false;

async function bytes(name) {
  const answer = await fetch(here(name));
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
  return answer.arrayBuffer();
}

/** The weights of these sources as inputs of the graph, one row per source; what is not there yet is loaded. */
async function weights(names) {
  await Promise.all(names.map(async (name) => priors.has(name) || priors.set(name, await bytes(`${name}.bin`))));
  const inputs = {};
  let from = 0;
  for (const [kind, numbers] of Object.entries(facts.weights)) {
    const Row = KINDS[kind], all = new Row(names.length * numbers), start = from;
    names.forEach((name, s) => all.set(new Row(priors.get(name), start, numbers), s * numbers));
    inputs[`weights_${kind}`] = new ort.Tensor(kind, all, [names.length, numbers]);
    from += numbers * Row.BYTES_PER_ELEMENT;
  }
  return inputs;
}

/** Load runtime and graph once: WebGPU where there is an adapter that runs the graph, else WebAssembly. */
async function load(names) {
  if (session) return;
  const graph = new Uint8Array(await bytes("graph.onnx"));
  const open = async (build, provider) => {
    ort = await import(`./${build}`);
    Object.assign(ort.env.wasm, { wasmPaths: here("./"), numThreads: 1, proxy: false });
    session = await ort.InferenceSession.create(graph, { executionProviders: [provider] });
    postMessage({ engine: provider === "webgpu" ? "WebGPU" : "WebAssembly" });
  };
  if (await self.navigator.gpu?.requestAdapter().catch(() => null)) {
    try {
      await open("ort.webgpu.min.mjs", "webgpu");
      await begin(await weights(names), names.length, new Float32Array(facts.bins * facts.squeeze), facts.squeeze).step();
      return;
    } catch (error) {
      postMessage({ note: `WebGPU did not run the search (${error.message}); WebAssembly does.` });
    }
  }
  await open("ort.wasm.min.mjs", "wasm");
}

const free = ({ data }) => data.buffer.transfer?.(0); // now: a browser collects large arrays late

/** Latents and Adam's moments at zero; `step` is one iteration. */
function begin(rows, sources, target, frames) {
  const tensor = (data, dims) => new ort.Tensor("float32", data, dims);
  const shape = [sources, facts.bins * facts.squeeze, frames / facts.squeeze];
  const zeros = () => tensor(new Float32Array(shape[0] * shape[1] * shape[2]), shape);
  let state = { z: zeros(), first: zeros(), second: zeros() };
  const chosen = new ort.Tensor("int32", Int32Array.from({ length: sources }, (_, s) => s), [sources]);
  const fixed = { ...rows, chosen, target: tensor(target, [facts.bins, frames]) };
  let steps = 0, estimates = null;
  return {
    get steps() { return steps; },
    async step() {
      const number = (value) => tensor(Float32Array.of(value), []);
      const out = await session.run({ ...fixed, ...state, step: number(++steps), alpha: number(alpha) });
      [...Object.values(state), ...(estimates ? [estimates] : [])].forEach(free);
      state = { z: out.next_z, first: out.next_first, second: out.next_second };
      estimates = out.estimates;
      return { estimates: estimates.data, misfit: out.misfit.data[0] };
    },
  };
}

async function run() {
  do {
    const start = performance.now();
    const { estimates, misfit } = await job.search.step();
    const seconds = (performance.now() - start) / 1000, size = facts.bins * job.analysed.padded;
    job.estimates = estimates;
    const pictures = job.chosen.map((_, s) => picture(estimates, s * size, job.analysed, facts, job.loudest));
    postMessage({ step: job.search.steps, misfit, seconds, pictures });
    await new Promise((resolve) => setTimeout(resolve)); // messages come in between
  } while (running && job.search.steps < job.iterations);
  running = false;
  const all = present();
  postMessage({ ended: job.search.steps >= job.iterations, stems: all }, all.flat().map(({ buffer }) => buffer));
}

const present = () => stems(FFT, job.channels, job.estimates, job.chosen.length, job.analysed, facts);

const answers = {
  async start({ channels, chosen, iterations, ...more }) {
    facts = more.facts;
    alpha = more.alpha;
    running = true; // until a stop, which may come while all is loaded: then one iteration is made
    const analysed = analyse(FFT, channels, facts);
    const loudest = analysed.target.reduce((a, b) => Math.max(a, b), 1e-9);
    postMessage({ mixture: picture(analysed.target, 0, analysed, facts, loudest), frames: analysed.frames });
    const names = chosen.map((k) => facts.sources[k]);
    await load(names);
    const search = begin(await weights(names), names.length, analysed.target, analysed.padded);
    job = { channels, chosen, iterations, analysed, loudest, search };
    await run();
  },
  async go() {
    running = true;
    await run();
  },
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
