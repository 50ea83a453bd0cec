"use strict";
// The part that computes, in a thread of its own, so that the page stays alive: it opens packs and runs graphs.
globalThis.Course ??= {};

Course.worker = (() => {
  /** The worker's own program. `decode`, `packs`: from lzma.js and packs.js. */
  function program(decode, { toBytes, open, weights }) {
    const sessions = new Map();
    let providers = ["wasm"];

    /** Start onnxruntime-web out of its pack; `providers`: what to run on, best first. */
    async function start({ pack, wanted }) {
      const { blobs } = open(toBytes(pack), decode);
      const address = (bytes) => URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
      importScripts(address(blobs.script));
      Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: blobs.program.slice().buffer });
      ort.env.wasm.wasmPaths = { mjs: address(blobs.module) };
      ort.env.logLevel = "error";
      providers = wanted;
      return {};
    }

    async function create(graph, data, executionProviders) {
      const options = { executionProviders, graphOptimizationLevel: "all", externalData: [{ path: "weights", data }] };
      return ort.InferenceSession.create(graph, options);
    }

    /** Make a session of a model's pack. Where a graphics processor is wanted, it must agree with the processor. */
    async function model({ name, pack, probe }) {
      const { about, blobs } = open(toBytes(pack), decode);
      const data = weights(about.weights, blobs);
      let session = await create(blobs.graph, data, ["wasm"]);
      let provider = "wasm";
      if (providers[0] === "webgpu" && probe) {
        try {
          const fast = await create(blobs.graph, data, ["webgpu"]);
          const [a, b] = [await compute(session, probe), await compute(fast, probe)];
          const worst = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
          if (worst < 1e-3) [session, provider] = [fast, "webgpu"];
        } catch { // a driver that fails is no better than none
        }
      }
      sessions.set(name, session);
      return { about, provider };
    }

    async function compute(session, feeds) {
      const tensors = {};
      for (const [key, { type, data, dims }] of Object.entries(feeds)) tensors[key] = new ort.Tensor(type, data, dims);
      const answers = await session.run(tensors);
      return (await Object.values(answers)[0].getData()).slice();
    }

    const run = async ({ name, feeds }) => {
      const begin = performance.now();
      const data = await compute(sessions.get(name), feeds);
      return { data, milliseconds: performance.now() - begin };
    };

    const tasks = { start, model, run };
    let last = Promise.resolve();
    self.onmessage = ({ data: { id, task, ...given } }) => {
      last = last.then(async () => {
        try {
          self.postMessage({ id, answer: await tasks[task](given) });
        } catch (error) {
          self.postMessage({ id, error: String(error?.message ?? error) });
        }
      });
    };
  }

  /** Start one. */
  function spawn() {
    const { toBytes, open, weights } = Course.packs;
    const packs = `{ toBytes: ${toBytes}, open: ${open}, weights: ${weights} }`;
    const source = `"use strict"; (${program})(${Course.lzma.decode}, ${packs});`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address);
    URL.revokeObjectURL(address);
    return worker;
  }

  return { spawn };
})();
