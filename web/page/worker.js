// Protects one picture after the other, away from the page's own thread: read, make small, defend, enlarge the
// perturbation and add it, write PNG, decode that again and check it. The networks are fetched once, at the start.

import { noise, randomSeed } from "./noise.js";
import { pngWriter } from "./png.js";
import { adder, nativeSize, perturbation, shrink, toPlanes } from "./view.js";

const STRIP = 1_000_000; // pixels read, changed and written at a time
const PREVIEW = 640; // longer side of the picture of differences

/** Something the user can do something about; other errors are the page's own. */
class Problem extends Error {}

let ort, session, card;
let last = load();

addEventListener("message", ({ data }) => {
  last = last.then(() => handle(data));
});

async function handle({ id, file, levels, seed }) {
  const tell = (stage, share) => postMessage({ kind: "progress", id, stage, share });
  try {
    if (!session) throw new Problem("the networks are not loaded; reload the page");
    postMessage({ kind: "done", id, ...(await protect(file, levels, seed ?? randomSeed(), tell)) });
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    const memory = error instanceof RangeError ? "too large for this browser's memory; scale it down" : error.message;
    postMessage({ kind: "failed", id, message: memory });
  }
}

// ---------------------------------------------------------------- the networks

async function load() {
  try {
    card = await (await get("model/defense.json")).json();
    const model = await download("model/defense.onnx", card.bytes);
    await checkReading();
    const provider = await start(model);
    const threads = provider === "wasm" ? ort.env.wasm.numThreads || 1 : undefined;
    postMessage({ kind: "ready", provider, threads, eps: card.eps, classes: card.classes });
  } catch (error) {
    console.error(error);
    postMessage({ kind: "broken", message: error.message });
  }
}

async function get(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Problem(`${address}: the server answers ${response.status}`);
  return response;
}

async function download(address, total) {
  const bytes = new Uint8Array(total);
  const reader = (await get(address)).body.getReader();
  let loaded = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    bytes.set(piece.value, loaded);
    loaded += piece.value.length;
    postMessage({ kind: "loading", loaded, total });
  }
  if (loaded !== total) throw new Problem(`${address}: cut short; reload the page`);
  return bytes;
}

/** Opens the session on the graphics processor where there is a real one that manages a first picture, else in
 * WebAssembly; ?on=wasm in the page's address insists on that, ?on=webgpu takes one made of software, too. */
async function start(model) {
  const asked = new URL(location).searchParams.get("on");
  const adapter = asked === "wasm" ? null : await navigator.gpu?.requestAdapter().catch(() => null);
  const inSoftware = adapter?.info.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  if (adapter && (asked === "webgpu" || !inSoftware)) {
    try {
      await open("webgpu", model);
      return "webgpu";
    } catch (error) {
      console.warn("WebGPU fails, WebAssembly takes over:", error);
    }
  }
  await open("wasm", model);
  return "wasm";
}

async function open(provider, model) {
  ort = await import(`./ort/ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
  session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  const size = [card.size, card.size];
  const grey = new Float32Array(3 * card.size ** 2).fill(0.5);
  const { after } = await defend(grey, size, card.eps, 0);
  const moved = after.every((value) => Math.abs(value - 0.5) <= card.eps + 1e-5);
  if (!moved) throw new Error("the first picture leaves its budget");
}

async function defend(before, [h, w], eps, seed) {
  const drawn = noise(seed, 2 * card.n_samples * 3 * h * w);
  const { protected: after, label, probabilities } = await session.run({
    image: new ort.Tensor("float32", before, [1, 3, h, w]),
    noise: new ort.Tensor("float32", drawn, [2, card.n_samples, 3, h, w]),
    eps: new ort.Tensor("float32", [eps], []),
  });
  return { after: after.data, label: Number(label.data[0]), probabilities: probabilities.data };
}

// ---------------------------------------------------------------- a picture

async function protect(file, levels, seed, tell) {
  const started = performance.now();
  tell("reading", 0);
  const { pixels, height, width } = await read(file, (share) => tell("reading", 0.25 * share));

  tell("defending", 0.25);
  const size = nativeSize(height, width, card.size, card.longest);
  const before = toPlanes(shrink(pixels, height, width, size), ...size);
  const asked = performance.now();
  const { after, label, probabilities } = await defend(before, size, levels / 255, seed);
  const defended = performance.now() - asked;

  const add = adder(perturbation(before, after, size, height, width), height, width, levels);
  const blob = await write(pixels, height, width, add, (share) => tell("writing", 0.5 + 0.3 * share));
  const { most, differences } = await check(blob, pixels, height, width, (share) => tell("checking", 0.8 + 0.2 * share));
  if (most > levels) throw new Problem(`the written picture differs by ${most}/255, more than ${levels}/255: not kept`);

  const took = performance.now() - started;
  return { blob, differences, most, height, width, seed, label: card.classes[label], sure: probabilities[label], own: Math.max(...probabilities) < card.own_below, defended, took };
}

async function read(file, tell) {
  const bitmap = await decode(file);
  const { height, width } = bitmap;
  const pixels = new Uint8Array(height * width * 3);
  strips(bitmap, (rows, start, count, opaque) => {
    if (!opaque) throw new Problem("has transparent parts, which this page would lose; the mspd program keeps them");
    pixels.set(rows, start * width * 3);
    tell((start + count) / height);
  });
  return { pixels, height, width };
}

async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Problem("not a picture that this browser can read; convert it to PNG or JPEG");
  }
}

/** Calls each(rows, start, count, opaque) with strips of R, G, B bytes from the top down, and closes the bitmap. */
function strips(bitmap, each) {
  const { height, width } = bitmap;
  const most = Math.max(1, Math.floor(STRIP / width));
  const canvas = new OffscreenCanvas(width, Math.min(most, height)).getContext("2d", { willReadFrequently: true });
  canvas.globalCompositeOperation = "copy";
  try {
    for (let start = 0; start < height; start += most) {
      const count = Math.min(most, height - start);
      canvas.drawImage(bitmap, 0, start, width, count, 0, 0, width, count);
      const { data } = canvas.getImageData(0, 0, width, count);
      const rows = new Uint8Array(width * count * 3);
      let opaque = true;
      for (let i = 0, j = 0; i < data.length; i += 4) {
        rows[j++] = data[i];
        rows[j++] = data[i + 1];
        rows[j++] = data[i + 2];
        opaque &&= data[i + 3] === 255;
      }
      each(rows, start, count, opaque);
    }
  } finally {
    bitmap.close();
  }
}

async function write(pixels, height, width, add, tell) {
  const writer = pngWriter(height, width);
  const most = Math.max(1, Math.floor(STRIP / width));
  for (let start = 0; start < height; start += most) {
    const count = Math.min(most, height - start);
    const rows = pixels.slice(start * width * 3, (start + count) * width * 3);
    add(rows, start, count);
    await writer.write(rows, count);
    tell((start + count) / height);
  }
  return writer.close();
}

/** The largest difference of the written file, decoded again, and a small picture of the differences, times 16. */
async function check(blob, pixels, height, width, tell) {
  const step = Math.max(1, Math.ceil(Math.max(height, width) / PREVIEW));
  const [high, wide] = [Math.ceil(height / step), Math.ceil(width / step)];
  const shown = new Uint8Array(high * wide * 3);
  let most = 0;
  const bitmap = await decode(blob);
  if (bitmap.height !== height || bitmap.width !== width) throw new Problem("the written picture has another size");
  strips(bitmap, (rows, start, count) => {
    const from = start * width * 3;
    for (let i = 0; i < rows.length; i++) most = Math.max(most, Math.abs(rows[i] - pixels[from + i]));
    for (let y = Math.ceil(start / step) * step; y < start + count; y += step) {
      for (let x = 0; x < width; x += step) {
        for (let c = 0; c < 3; c++) {
          const moved = rows[((y - start) * width + x) * 3 + c] - pixels[(y * width + x) * 3 + c];
          shown[((y / step) * wide + x / step) * 3 + c] = Math.min(Math.max(128 + 16 * moved, 0), 255);
        }
      }
    }
    tell((start + count) / height);
  });
  const writer = pngWriter(high, wide);
  await writer.write(shown, high);
  return { most, differences: await writer.close() };
}

/** Some browsers add noise to pixels that a page reads, against recognition: they cannot protect a picture. */
async function checkReading() {
  const pixels = Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * 37) % 256);
  const { most } = await check(await write(pixels, 64, 64, () => {}, () => {}), pixels, 64, 64, () => {});
  if (most > 0) {
    throw new Problem("this browser changes the pixels that a page reads (a guard against recognition); use another one");
  }
}
