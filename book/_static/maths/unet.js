"use strict";
// Shapes, parameters and multiplications of helpers.nn.SimpleUNet, layer by layer, without computing a single pixel.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  const GROUPS = 8;

  /** Size after a convolution: ⌊(H + 2p − k)/s⌋ + 1. */
  const convSize = (size, kernel, stride, padding) => Math.floor((size + 2 * padding - kernel) / stride) + 1;

  /** Size after a transposed convolution: (H − 1)s − 2p + k. */
  const transposedSize = (size, kernel, stride, padding) => (size - 1) * stride - 2 * padding + kernel;

  const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

  /**
   * Layers are objects { name, kind, inputs, shape, parameters, multiplications, … }; shapes are without the batch,
   * (C, H, W) or (length,); multiplications are those of convolutions, linear layers and matrix products.
   */
  function conv(name, [channels, height, width], outChannels, kernel, stride = 1, padding = 0) {
    const [h, w] = [height, width].map((size) => convSize(size, kernel, stride, padding));
    const weights = channels * outChannels * kernel * kernel;
    return {
      name,
      kind: "Conv2d",
      kernel,
      stride,
      padding,
      input: [channels, height, width],
      shape: [outChannels, h, w],
      parameters: weights + outChannels,
      multiplications: weights * h * w,
    };
  }

  function transposedConv(name, [channels, height, width], outChannels, kernel, stride, padding) {
    const [h, w] = [height, width].map((size) => transposedSize(size, kernel, stride, padding));
    const weights = channels * outChannels * kernel * kernel;
    return {
      name,
      kind: "ConvTranspose2d",
      kernel,
      stride,
      padding,
      input: [channels, height, width],
      shape: [outChannels, h, w],
      parameters: weights + outChannels,
      multiplications: weights * height * width,
    };
  }

  function linear(name, [length], outLength) {
    return {
      name,
      kind: "Linear",
      input: [length],
      shape: [outLength],
      parameters: length * outLength + outLength,
      multiplications: length * outLength,
    };
  }

  const plain = (name, kind, shape, parameters = 0) => ({
    name,
    kind,
    input: shape,
    shape,
    parameters,
    multiplications: 0,
  });
  const norm = (name, shape) => plain(name, "GroupNorm", shape, 2 * shape[0]);

  /** A layer made of others: its numbers are their sums. `layers` are in the order in which they run. */
  function block(name, kind, input, shape, layers) {
    const sum = (key) => layers.reduce((total, layer) => total + layer[key], 0);
    return { name, kind, input, shape, layers, parameters: sum("parameters"), multiplications: sum("multiplications") };
  }

  function residualBlock(name, input, outChannels, embLength) {
    const conv1 = conv("conv1", input, outChannels, 3, 1, 1);
    const conv2 = conv("conv2", conv1.shape, outChannels, 3, 1, 1);
    const residual =
      input[0] === outChannels
        ? plain("residual_conv", "Identity", input)
        : conv("residual_conv", input, outChannels, 1);
    return block(name, "ResidualBlock", input, conv2.shape, [
      conv1,
      norm("norm1", conv1.shape),
      linear("time_mlp", [embLength], outChannels),
      conv2,
      norm("norm2", conv2.shape),
      plain("dropout", "Dropout", conv2.shape),
      residual,
    ]);
  }

  function attentionBlock(name, input) {
    const [channels, height, width] = input;
    const positions = height * width;
    const looking = {
      // two matrix products: Q Kᵀ, and weights times V
      name: "softmax(QKᵀ/√C)",
      kind: "weights",
      input: [positions, channels],
      shape: [positions, positions],
      parameters: 0,
      multiplications: 2 * positions * positions * channels,
    };
    return block(name, "AttentionBlock", input, input, [
      norm("norm", input),
      conv("qkv", input, 3 * channels, 1),
      looking,
      conv("proj", input, channels, 1),
    ]);
  }

  /** Two maps laid on each other along the channels; `error` where their sides differ. */
  function concatenation(name, a, b) {
    const fits = a[1] === b[1] && a[2] === b[2];
    const stage = {
      name,
      kind: "cat",
      input: a,
      skip: b,
      shape: [a[0] + b[0], a[1], a[2]],
      parameters: 0,
      multiplications: 0,
    };
    return fits ? stage : { ...stage, error: true };
  }

  /**
   * Follow a picture through the network, in the order of its forward pass.
   * @param {{inChannels, outChannels, timeEmbDim, baseChannels, height, width}} options As SimpleUNet's arguments.
   * @returns {{stages, parameters, multiplications, complete, error}} stages up to the first concatenation that does
   *   not fit, if there is one: then `complete` is false, and `error` is what the library says at the door.
   */
  function trace({
    inChannels = 3,
    outChannels = inChannels,
    timeEmbDim = 128,
    baseChannels = 64,
    height = 32,
    width = height,
  }) {
    const c = baseChannels;
    if (c < GROUPS || c % GROUPS)
      throw new RangeError(`expected baseChannels to be a positive multiple of 8, got ${c}`);
    if (timeEmbDim < 2 || timeEmbDim % 2) throw new RangeError(`expected an even timeEmbDim, got ${timeEmbDim}`);
    const emb = 4 * timeEmbDim;
    const stages = [];
    const add = (stage) => {
      stages.push(stage);
      return stage.shape;
    };
    add(
      block(
        "time_embed",
        "Sequential",
        [1],
        [emb],
        [
          plain("0", "SinusoidalTimeEmbedding", [timeEmbDim]),
          linear("1", [timeEmbDim], emb),
          plain("2", "ReLU", [emb]),
          linear("3", [emb], emb),
        ],
      ),
    );
    let h = add(conv("init_conv", [inChannels, height, width], c, 3, 1, 1));
    const skip1 = add(residualBlock("down1", h, 2 * c, emb));
    h = add(conv("downsample1", skip1, 2 * c, 3, 2, 1));
    const skip2 = add(residualBlock("down2", h, 4 * c, emb));
    h = add(conv("downsample2", skip2, 4 * c, 3, 2, 1));
    h = add(residualBlock("mid1", h, 4 * c, emb));
    h = add(attentionBlock("mid_attn", h));
    h = add(residualBlock("mid2", h, 4 * c, emb));
    for (const [level, skip, out] of [
      [1, skip2, 2 * c],
      [2, skip1, c],
    ]) {
      h = add(transposedConv(`upsample${level}`, h, h[0], 4, 2, 1));
      const joined = concatenation(`cat${level}`, h, skip);
      h = add(joined);
      if (joined.error) break;
      h = add(residualBlock(`up${level}`, h, out, emb));
    }
    const complete = !stages.some((stage) => stage.error);
    if (complete) {
      h = add(norm("final_norm", h));
      add(conv("final_conv", h, outChannels, 3, 1, 1));
    }
    const sum = (key) => stages.reduce((total, stage) => total + stage[key], 0);
    return {
      stages,
      complete,
      parameters: complete ? sum("parameters") : NaN,
      multiplications: complete ? sum("multiplications") : NaN,
      error: complete
        ? ""
        : "expected height and width divisible by 4 (two stride-2 downsamplings), " + `got ${height}×${width}`,
    };
  }

  /** Sizes of a side through n convolutions with kernel 3, stride 2, padding 1, the input's first. */
  function halvings(size, n) {
    return Array.from({ length: n }).reduce((sizes) => [...sizes, convSize(sizes.at(-1), 3, 2, 1)], [size]);
  }

  Course.maths.unet = { convSize, transposedSize, trace, halvings, product };
})();
