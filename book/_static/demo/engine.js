"use strict";
// What pages use: load a model, ask it. One worker serves all demos of a page.
globalThis.Course ??= {};

Course.engine = (() => {
  const waiting = new Map(); // id → { resolve, reject }
  const models = new Map(); // name → promise of its description
  let worker = null;
  let started = null;
  let count = 0;

  function call(task, given) {
    if (!worker) {
      worker = Course.worker.spawn();
      worker.onmessage = ({ data: { id, answer, error } }) => {
        const { resolve, reject } = waiting.get(id);
        waiting.delete(id);
        if (error) reject(new Error(error));
        else resolve(answer);
      };
      worker.onerror = (event) => {
        for (const { reject } of waiting.values()) reject(new Error(event.message ?? "the worker failed"));
        waiting.clear();
      };
    }
    const id = ++count;
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, task, ...given });
    });
  }

  /** Which runtime this browser should load, and what it runs on. */
  async function choose(useGpu) {
    const able = useGpu && "runtime-gpu" in Course.manifest.packs && navigator.gpu && "Suspending" in WebAssembly;
    const adapter = able ? await navigator.gpu.requestAdapter().catch(() => null) : null;
    return adapter ? { runtime: "runtime-gpu", wanted: ["webgpu"] } : { runtime: "runtime", wanted: ["wasm"] };
  }

  /** Start the runtime, once. */
  function start(useGpu, onBytes) {
    started ??= choose(useGpu).then(async ({ runtime, wanted }) => {
      await call("start", { pack: await Course.packs.fetchPack(runtime, onBytes), wanted });
    });
    started.catch(() => { started = null; }); // so that it can be tried again
    return started;
  }

  /**
   * Load a model, and the runtime with the first one.
   * @param {string} name As in the manifest.
   * @param {{gpu?: boolean, probe?: object, onProgress?: (share: number, text: string) => void}} options `probe`:
   *   inputs on which a graphics processor has to agree with the processor before it is used.
   * @returns {Promise<{about: object, provider: string}>} What the page must know of it, and what it runs on.
   */
  function load(name, { gpu = false, probe = null, onProgress = () => {} } = {}) {
    if (!models.has(name)) {
      const total = Course.packs.sizeOf([name, ...(started ? [] : ["runtime"])]);
      let come = 0;
      const onBytes = (bytes) => {
        come += bytes;
        const megabytes = (number) => (Math.min(number, total) / 1e6).toFixed(1);
        onProgress(Math.min(1, come / total), `Loading: ${megabytes(come)} of ${megabytes(total)} MB`);
      };
      models.set(name, (async () => {
        const [pack] = await Promise.all([Course.packs.fetchPack(name, onBytes), start(gpu, onBytes)]);
        onProgress(1, "Unpacking the weights");
        return call("model", { name, pack, probe });
      })());
      models.get(name).catch(() => models.delete(name));
    }
    return models.get(name);
  }

  /** float32 and int64 inputs of a graph. */
  const floats = (data, dims) => ({ type: "float32", data: Float32Array.from(data), dims });
  const integers = (data) => ({ type: "int64", data: BigInt64Array.from(data, BigInt), dims: [data.length] });

  /** Ask a model: inputs by name → { data: Float32Array, milliseconds }. */
  const run = (name, feeds) => call("run", { name, feeds });

  return { first: Promise.resolve(), floats, integers, load, run };
})();
