"use strict";
// Sinusoidal embeddings of time, as helpers.nn.sinusoidal_embedding (Vaswani et al. 2017, arXiv:1706.03762, section
// 3.5): with h = d/2 frequencies ω_k = P^(−k/h), time t becomes the h pairs (sin ω_k t, cos ω_k t).
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  const LAYOUTS = ["halves", "interleaved"];

  /** ω_0, …, ω_{h−1} in radians a step. */
  function frequencies(embeddingDim, maxPeriod = 10_000) {
    if (embeddingDim < 2 || embeddingDim % 2)
      throw new RangeError(`expected an even embeddingDim, got ${embeddingDim}`);
    const half = embeddingDim / 2;
    return Float64Array.from({ length: half }, (_, k) => Math.exp((-Math.log(maxPeriod) * k) / half));
  }

  /** In which dimensions pair k stands: its sine and its cosine. */
  function placesOf(k, embeddingDim, layout = "halves") {
    return layout === "halves" ? { sine: k, cosine: embeddingDim / 2 + k } : { sine: 2 * k, cosine: 2 * k + 1 };
  }

  /** The embedding of one time: d numbers; layout "halves" (all sines, then all cosines) or "interleaved". */
  function sinusoidalEmbedding(t, embeddingDim = 128, maxPeriod = 10_000, layout = "halves") {
    if (!LAYOUTS.includes(layout)) throw new RangeError(`expected the layout halves or interleaved, got ${layout}`);
    const embedding = new Float64Array(embeddingDim);
    frequencies(embeddingDim, maxPeriod).forEach((omega, k) => {
      const { sine, cosine } = placesOf(k, embeddingDim, layout);
      embedding[sine] = Math.sin(omega * t);
      embedding[cosine] = Math.cos(omega * t);
    });
    return embedding;
  }

  /** Σ_j a_j b_j. */
  const dot = (a, b) => a.reduce((sum, value, j) => sum + value * b[j], 0);

  /** The cosine of the angle between the embeddings of two times. Every embedding has length √(d/2). */
  const similarity = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));

  Course.maths.embedding = { frequencies, placesOf, sinusoidalEmbedding, dot, similarity };
})();
