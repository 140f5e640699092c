// The resize view, as mspd.models.view has it: the picture made small, and the perturbation made large again and added.
// Pixels are rows of R, G, B bytes.

/** Height and width of the view: shorter side `size`, the aspect ratio kept up to `longest`. */
export function nativeSize(height, width, size, longest) {
  const ratio = Math.min(Math.max(height, width) / Math.min(height, width), longest);
  const longer = roundHalfEven(size * ratio);
  return height > width ? [longer, size] : [size, longer];
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** Antialiased bilinear resampling of one side: for each output the first sample and the samples' shares. */
function triangles(source, length) {
  const scale = source / length;
  const reach = Math.max(scale, 1);
  return Array.from({ length }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), source);
    const shares = new Float64Array(last - first);
    for (let j = first; j < last; j++) shares[j - first] = Math.max(0, 1 - Math.abs(j - centre + 0.5) * (1 / reach));
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

/** `blocks` blocks of `source` samples of `depth` values, each block resampled by `taps`, into the array `out`. */
function resample(from, blocks, source, depth, taps, out, rounded = (sum) => sum) {
  for (let block = 0, to = 0; block < blocks; block++) {
    for (const { first, shares } of taps) {
      const start = (block * source + first) * depth;
      for (let d = 0; d < depth; d++, to++) {
        let sum = 0;
        for (let j = 0; j < shares.length; j++) sum += shares[j] * from[start + j * depth + d];
        out[to] = rounded(sum);
      }
    }
  }
  return out;
}

// Pillow's resize of bytes counts in 1 / 2^22 and rounds after each of its two passes.
const BITS = 22;
const inBits = (taps) =>
  taps.map(({ first, shares }) => ({ first, shares: shares.map((share) => Math.floor(share * 2 ** BITS + 0.5)) }));
const toByte = (sum) => Math.min((sum + 2 ** (BITS - 1)) >> BITS, 255);

/** Pixels (height, width, 3) made small, antialiased: bytes (h, w, 3), the same as Pillow 13 gives. */
export function shrink(pixels, height, width, [h, w]) {
  const across = (from, rows) =>
    resample(from, rows, width, 3, inBits(triangles(width, w)), new Uint8Array(rows * w * 3), toByte);
  const down = (from, columns) =>
    resample(from, 1, height, columns * 3, inBits(triangles(height, h)), new Uint8Array(h * columns * 3), toByte);
  const rowsFirst = height > h && height - h > 2 * (width - w); // Pillow's choice, where it saves work
  return rowsFirst ? across(down(pixels, width), h) : down(across(pixels, height), w);
}

/** Bytes (h, w, 3) to planes (3, h, w) of float32 in [0, 1]. */
export function toPlanes(bytes, h, w) {
  const planes = new Float32Array(3 * h * w);
  for (let i = 0; i < h * w; i++) for (let c = 0; c < 3; c++) planes[c * h * w + i] = bytes[3 * i + c] / 255;
  return planes;
}

/** The perturbation in grey levels, (h, w, 3), from the planes before and after; resampled down where the picture is
 * smaller than the view. Returns it with its size. */
export function perturbation(before, after, [h, w], height, width) {
  let levels = new Float32Array(h * w * 3);
  for (let i = 0; i < h * w; i++) {
    for (let c = 0; c < 3; c++) {
      const at = c * h * w + i;
      levels[3 * i + c] = Math.fround(after[at] - before[at]) * 255;
    }
  }
  if (h > height || w > width) {
    const wide = resample(levels, h, w, 3, triangles(w, width), new Float32Array(h * width * 3));
    levels = resample(wide, 1, h, width * 3, triangles(h, height), new Float32Array(height * width * 3));
    [h, w] = [height, width];
  }
  return { levels, h, w };
}

/** Bilinear enlargement of one side: the two neighbours of each output and the second's share. */
function neighbours(length, source) {
  const scale = Math.fround(source / length);
  return Array.from({ length }, (_, i) => {
    const position = Math.min(Math.max(Math.fround(Math.fround((i + 0.5) * scale) - 0.5), 0), source - 1);
    const low = Math.floor(position);
    return { low, high: Math.min(low + 1, source - 1), share: Math.fround(position - low) };
  });
}

const mixed = (a, b, share) => a + share * (b - a);

/** A function (rows, start, count) that adds the perturbation to `count` rows of pixels from row `start` on, in place;
 * no value moves by more than `most` grey levels. */
export function adder({ levels, h, w }, height, width, most) {
  const row = width * 3;
  const wide = new Float32Array(h * row);
  const across = neighbours(width, w);
  for (let y = 0; y < h; y++) {
    across.forEach(({ low, high, share }, x) => {
      for (let c = 0; c < 3; c++) {
        wide[y * row + 3 * x + c] = mixed(levels[(y * w + low) * 3 + c], levels[(y * w + high) * 3 + c], share);
      }
    });
  }
  const down = neighbours(height, h);
  return (rows, start, count) => {
    for (let y = 0; y < count; y++) {
      const { low, high, share } = down[start + y];
      for (let i = 0; i < row; i++) {
        const moved = roundHalfEven(Math.fround(mixed(wide[low * row + i], wide[high * row + i], share)));
        const value = rows[y * row + i] + Math.min(Math.max(moved, -most), most);
        rows[y * row + i] = Math.min(Math.max(value, 0), 255);
      }
    }
  };
}
