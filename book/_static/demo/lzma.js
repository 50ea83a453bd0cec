"use strict";
// Decodes raw LZMA streams, as Python's lzma.FORMAT_RAW writes them with lp = 0. After Igor Pavlov's LZMA specification
// (2015, public domain): a range decoder, each of whose bits has a probability that adapts, and a sliding window.
// Browsers know gzip only, which makes the runtime two thirds larger.
globalThis.Course ??= {};

Course.lzma = (() => {
  /**
   * Decode. Uses nothing outside of itself, so that its text can be given to a worker.
   * @param {Uint8Array} input The stream, without header.
   * @param {number} size How many bytes come out.
   * @param {{lc: number, pb: number}} options As they were given to the encoder.
   * @returns {Uint8Array} The content.
   * @throws {Error} If the stream is damaged.
   */
  function decode(input, size, { lc, pb }) {
    const fresh = (n) => new Uint16Array(n).fill(1024); // probabilities start at one half of 2¹¹
    const lengthTables = () => ({
      choice: fresh(2), low: fresh(states << 3), mid: fresh(states << 3), high: fresh(256),
    });
    const output = new Uint8Array(size);
    const states = 1 << pb;
    const literals = fresh(0x300 << lc);
    const isMatch = fresh(12 * states);
    const isRep0Long = fresh(12 * states);
    const [isRep, isRepG0, isRepG1, isRepG2] = [fresh(12), fresh(12), fresh(12), fresh(12)];
    const slots = fresh(4 * 64);
    const special = fresh(128);
    const align = fresh(16);
    const [lengths, repLengths] = [lengthTables(), lengthTables()];

    let at = 5;
    let range = 0xffffffff;
    let code = ((input[1] << 24) | (input[2] << 16) | (input[3] << 8) | input[4]) >>> 0;
    if (input[0] !== 0) throw new Error("damaged: the stream does not begin with 0");

    function bit(table, index) {
      const probability = table[index];
      const bound = (range >>> 11) * probability;
      let answer;
      if (code < bound) {
        range = bound;
        table[index] = probability + ((2048 - probability) >>> 5);
        answer = 0;
      } else {
        range -= bound;
        code -= bound;
        table[index] = probability - (probability >>> 5);
        answer = 1;
      }
      if (range < 0x1000000) {
        range = (range << 8) >>> 0;
        code = ((code << 8) | input[at++]) >>> 0;
      }
      return answer;
    }

    function direct(n) {
      let answer = 0;
      for (; n; n--) {
        range >>>= 1;
        const one = code >= range ? 1 : 0;
        if (one) code -= range;
        if (range < 0x1000000) {
          range = (range << 8) >>> 0;
          code = ((code << 8) | input[at++]) >>> 0;
        }
        answer = (answer << 1) | one;
      }
      return answer;
    }

    function tree(table, offset, n) {
      let node = 1;
      for (let k = 0; k < n; k++) node = (node << 1) | bit(table, offset + node);
      return node - (1 << n);
    }

    function reverseTree(table, offset, n) {
      let node = 1;
      let answer = 0;
      for (let k = 0; k < n; k++) {
        const one = bit(table, offset + node);
        node = (node << 1) | one;
        answer |= one << k;
      }
      return answer;
    }

    function length(tables, place) {
      if (!bit(tables.choice, 0)) return tree(tables.low, place << 3, 3);
      if (!bit(tables.choice, 1)) return 8 + tree(tables.mid, place << 3, 3);
      return 16 + tree(tables.high, 0, 8);
    }

    function distance(matchLength) {
      const slot = tree(slots, Math.min(matchLength, 3) << 6, 6);
      if (slot < 4) return slot;
      const extra = (slot >> 1) - 1;
      const base = ((2 | (slot & 1)) << extra) >>> 0;
      if (slot < 14) return base + reverseTree(special, base - slot, extra);
      return base + direct(extra - 4) * 16 + reverseTree(align, 0, 4);
    }

    let state = 0;
    let [rep0, rep1, rep2, rep3] = [0, 0, 0, 0];
    let to = 0;
    while (to < size) {
      const place = to & (states - 1);
      if (!bit(isMatch, (state << pb) + place)) {
        const table = 0x300 * ((to ? output[to - 1] : 0) >> (8 - lc));
        let symbol = 1;
        if (state >= 7) {
          let matched = output[to - rep0 - 1];
          do {
            const expected = (matched >> 7) & 1;
            matched <<= 1;
            const found = bit(literals, table + ((1 + expected) << 8) + symbol);
            symbol = (symbol << 1) | found;
            if (expected !== found) break;
          } while (symbol < 0x100);
        }
        while (symbol < 0x100) symbol = (symbol << 1) | bit(literals, table + symbol);
        output[to++] = symbol;
        state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
        continue;
      }
      let count;
      if (bit(isRep, state)) {
        if (!bit(isRepG0, state)) {
          if (!bit(isRep0Long, (state << pb) + place)) {
            output[to] = output[to - rep0 - 1];
            to += 1;
            state = state < 7 ? 9 : 11;
            continue;
          }
        } else {
          let chosen;
          if (!bit(isRepG1, state)) chosen = rep1;
          else {
            if (!bit(isRepG2, state)) chosen = rep2;
            else {
              chosen = rep3;
              rep3 = rep2;
            }
            rep2 = rep1;
          }
          rep1 = rep0;
          rep0 = chosen;
        }
        count = length(repLengths, place);
        state = state < 7 ? 8 : 11;
      } else {
        [rep3, rep2, rep1] = [rep2, rep1, rep0];
        count = length(lengths, place);
        state = state < 7 ? 7 : 10;
        rep0 = distance(count);
      }
      count += 2;
      if (rep0 >= to || to + count > size) throw new Error("damaged: a match reaches outside of the content");
      for (let from = to - rep0 - 1; count; count--) output[to++] = output[from++];
    }
    return output;
  }

  return { decode };
})();
