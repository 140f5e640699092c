// The noise of the defence, from a seed: a counter through the mixing step of MurmurHash3 (Austin Appleby, public
// domain), twice, with a key for each half of the seed. docs/browser.md states it.

function mix(h) {
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** `length` float32 values, multiples of 2^-24 in [0, 1); `seed` is an integer from 0 to 2^53 - 1. */
export function noise(seed, length) {
  const low = mix(seed % 2 ** 32);
  const high = mix(Math.floor(seed / 2 ** 32) ^ 0x9e3779b9);
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = (mix(mix(i ^ low) ^ high) >>> 8) / 2 ** 24;
  return values;
}

/** A seed nobody can guess. */
export function randomSeed() {
  const [a, b] = crypto.getRandomValues(new Uint32Array(2));
  return (a & 0x1fffff) * 2 ** 32 + b;
}
