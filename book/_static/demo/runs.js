"use strict";
// One run of a sampler with a model of the engine: what happens between "generate" and the picture.
globalThis.Course ??= {};

Course.runs = (() => {
  const AT_ONCE = 4; // pictures a call, so that a run can be cancelled soon

  class Cancelled extends Error {}

  /** Join arrays. */
  function joined(arrays) {
    const whole = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
    let at = 0;
    for (const array of arrays) {
      whole.set(array, at);
      at += array.length;
    }
    return whole;
  }

  const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

  /** Standard normal numbers for some pictures; picture k has the same ones however many there are. */
  const noiseFor = (shape, count, seed, stream = 0) => joined(Array.from({ length: count }, (_, k) =>
    Course.maths.noise.normals(sizeOf(shape), seed, stream * 4096 + k)));

  /** The network's answers for x (B pictures) at one time each, and labels if it has classes. */
  async function ask(about, x, time, labels, tell) {
    const size = sizeOf(about.shape);
    const count = x.length / size;
    const answers = [];
    for (let from = 0; from < count; from += AT_ONCE) {
      const n = Math.min(AT_ONCE, count - from);
      const feeds = {
        x: Course.engine.floats(x.subarray(from * size, (from + n) * size), [n, ...about.shape]),
        t: Course.engine.floats(new Array(n).fill(time), [n]),
      };
      if (about.classes) feeds.label = Course.engine.integers(labels.slice(from, from + n));
      const { data, milliseconds } = await Course.engine.run(about.name, feeds);
      tell(n, milliseconds);
      answers.push(data);
    }
    return joined(answers);
  }

  /** D at x for one noise level, guided where guidance acts. */
  async function denoise(about, x, sigma, { labels, guidance }, tell) {
    const { coefficients, denoised, guided, isGuided } = Course.maths.edm;
    const c = coefficients(sigma, about.sigma_data);
    const input = Float64Array.from(x, (value) => c.input * value);
    const withClass = denoised(x, await ask(about, input, c.noise, labels, tell), c);
    if (!about.classes || !isGuided(sigma, guidance, about.guidance_interval)) return withClass;
    const nobody = labels.map(() => about.classes);
    return guided(withClass, denoised(x, await ask(about, input, c.noise, nobody, tell), c), guidance);
  }

  /** The generator of a run, and what answers its questions. */
  function plan(about, how, tell) {
    const { count, seed, steps, sampler } = how;
    const noise = how.noise ?? noiseFor(about.shape, count, seed);
    if (about.kind === "discrete") {
      const eta = sampler === "ddpm" ? 1 : 0;
      const fresh = (k) => noiseFor(about.shape, count, seed, k + 1);
      return {
        steps: Course.maths.ddim.sample(Float64Array.from(noise), {
          alphaBar: about.alpha_bar, nSteps: steps, eta, noise: fresh,
        }),
        answer: ({ x, t }) => ask(about, x, t, null, tell),
      };
    }
    const grid = Course.maths.edm.sigmas(steps, about.sigmas);
    return {
      steps: Course.maths.edm.sample(noise, { solver: sampler, grid }),
      answer: ({ x, sigma }) => denoise(about, x, sigma, how, tell),
    };
  }

  /** How many evaluations a picture each step takes: one, Heun's two but for the last, and twice that where guided. */
  function evaluations(about, { steps, sampler, guidance = 1 }) {
    if (about.kind === "discrete") return new Array(steps).fill(1);
    const grid = Course.maths.edm.sigmas(steps, about.sigmas);
    const { isGuided } = Course.maths.edm;
    const at = (sigma) => (about.classes && isGuided(sigma, guidance, about.guidance_interval) ? 2 : 1);
    const again = (next) => (sampler === "heun" && next > 0 ? at(next) : 0);
    return grid.slice(0, -1).map((sigma, k) => at(sigma) + again(grid[k + 1]));
  }

  /** Milliseconds of one evaluation of one picture: the second, since the first also makes room. */
  async function measure(about) {
    const noise = noiseFor(about.shape, 1, 1);
    let time = 0;
    const labels = about.classes ? [about.classes] : null;
    for (let k = 0; k < 2; k++) await ask(about, noise, 1, labels, (_, milliseconds) => { time = milliseconds; });
    return time;
  }

  /** How strong the noise is after a step or before, in both worlds, and the factor that brings x to unit scale. */
  function levels(about, step) {
    if (about.kind === "discrete") {
      const level = (alphaBar) => ({ alphaBar, sigma: Math.sqrt((1 - alphaBar) / alphaBar), scale: 1 });
      return [level(step.alphaBar), level(step.alphaBarNext)];
    }
    const level = (sigma) => ({ alphaBar: 1 / (1 + sigma ** 2), sigma, scale: 1 / Math.sqrt(1 + sigma ** 2) });
    return [level(step.sigma), level(step.sigmaNext)];
  }

  /**
   * Run.
   * @param {object} about The model's description, from Course.engine.load.
   * @param {{count: number, seed: number, steps: number, sampler: string, labels?: number[], guidance?: number,
   *   noise?: Float32Array}} how `noise` in place of what the seed gives.
   * @param {{onStep?: (moment: object) => void, signal?: AbortSignal}} hooks
   * @returns {Promise<{moments: object[], pictures: Float64Array, evaluations: number, milliseconds: number}>} Each
   *   moment: x, x0, eps, level and next of a step; evaluations count pictures.
   * @throws {Cancelled} If the signal says so.
   */
  async function start(about, how, { onStep = () => {}, signal = null } = {}) {
    const moments = [];
    let [evaluations, milliseconds] = [0, 0];
    const tell = (n, time) => {
      if (signal?.aborted) throw new Cancelled("cancelled");
      evaluations += n;
      milliseconds += time;
    };
    const { steps, answer } = plan(about, how, tell);
    let given;
    for (;;) {
      const { value, done } = steps.next(given);
      if (done) return { moments, pictures: value, evaluations, milliseconds };
      given = undefined;
      if (value.ask) {
        given = await answer(value.ask);
      } else {
        const [level, nextLevel] = levels(about, value.step);
        moments.push({ ...value.step, level, nextLevel });
        onStep(moments.at(-1), moments);
      }
    }
  }

  return { Cancelled, evaluations, measure, noiseFor, sizeOf, start };
})();
