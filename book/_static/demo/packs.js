"use strict";
// Packs: the runtime and the models, as scripts that hold text. book/_ext/browser_models.py makes them and says how.
globalThis.Course ??= {};

Course.packs = (() => {
  const parts = new Map(); // name → { size, texts }

  /** What the scripts of a pack call: part k of n, and how many bytes the whole has. */
  function put(name, k, n, size, text) {
    if (!parts.has(name)) parts.set(name, { size, texts: new Array(n) });
    parts.get(name).texts[k] = text;
  }

  /** Load a script of the book. */
  function script(address) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = address;
      element.onload = () => {
        element.remove();
        resolve();
      };
      element.onerror = () => reject(new Error(`could not load ${address}`));
      document.head.append(element);
    });
  }

  /** Bytes of the scripts of these packs. */
  const sizeOf = (names) =>
    names.flatMap((name) => Course.manifest.packs[name]).reduce((sum, [, bytes]) => sum + bytes, 0);

  /**
   * Load the scripts of a pack.
   * @param {string} name
   * @param {(bytes: number) => void} onBytes Called with the size of each script that has come.
   * @returns {Promise<{size: number, texts: string[]}>} Its parts, which are then no longer kept here.
   */
  async function fetchPack(name, onBytes = () => {}) {
    const { folder, packs } = Course.manifest;
    await Promise.all(packs[name].map(([file, bytes]) => script(folder + file).then(() => onBytes(bytes))));
    const found = parts.get(name);
    parts.delete(name);
    return found;
  }

  /** Text to bytes: seven bits a character; one from 0x100 on stands for an illegal character and the next. */
  function toBytes({ size, texts }) {
    const illegal = [0, 10, 13, 34, 92];
    const bytes = new Uint8Array(size + 2);
    let [bits, held, at] = [0, 0, 0];
    for (const text of texts) {
      for (let k = 0; k < text.length; k++) {
        let code = text.charCodeAt(k);
        if (code >= 0x100) {
          bits = (bits << 7) | illegal[(code - 0x100) >> 7];
          held += 7;
          if (held >= 8) bytes[at++] = bits >> (held -= 8);
          bits &= 0xff;
          code = (code - 0x100) & 127;
        }
        bits = (bits << 7) | code;
        held += 7;
        if (held >= 8) bytes[at++] = bits >> (held -= 8);
        bits &= 0xff;
      }
    }
    return bytes.subarray(0, size);
  }

  /** A pack's description, and its blobs by name, decompressed with `decode`. */
  function open(bytes, decode) {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const about = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const blobs = {};
    let at = 4 + length;
    for (const { name, size, stored, lzma } of about.blobs) {
      const content = bytes.subarray(at, (at += stored));
      blobs[name] = lzma ? decode(content, size, { lc: lzma.lc, pb: 0 }) : content;
    }
    return { about, blobs };
  }

  /** The file of weights, float32, that the planes of bytes make. */
  function weights(groups, blobs) {
    const total = groups.reduce((sum, { count }) => sum + count, 0);
    const numbers = new Float32Array(total);
    let at = 0;
    for (const { kind, count } of groups) {
      const plane = (k) => blobs[`${kind}-${k}`];
      if (kind === "float16") {
        const table = Float32Array.from({ length: 65536 }, (_, code) => {
          const [exponent, fraction] = [(code >> 10) & 31, code & 1023];
          const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity)
            : (1 + fraction / 1024) * 2 ** (exponent - 15);
          return code & 0x8000 ? -size : size;
        });
        const [low, high] = [plane(0), plane(1)];
        for (let i = 0; i < count; i++) numbers[at + i] = table[(high[i] << 8) | low[i]];
      } else {
        const width = kind === "bfloat16" ? 2 : 4;
        const bytes = new Uint8Array(numbers.buffer, 4 * at, 4 * count);
        for (let k = 0; k < width; k++) {
          const source = plane(k);
          for (let i = 0, to = 4 - width + k; i < count; i++, to += 4) bytes[to] = source[i];
        }
      }
      at += count;
    }
    return new Uint8Array(numbers.buffer);
  }

  return { fetchPack, open, put, sizeOf, toBytes, weights };
})();
