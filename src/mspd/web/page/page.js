// The page: takes pictures, has them protected one after the other, shows and hands out the results.
import { ask, call, line } from "./api.js";
import { showVerdict } from "./verdict.js";
import { Viewer } from "./viewer.js";
import { volumes, zip } from "./zip.js";

const $ = (id) => document.getElementById(id);
const pictures = [];
let limits = { bytes: Infinity };
let presets = [];
let running = true; // there is nothing to protect with before the presets are here

// ---------------------------------------------------------------- settings

function preset() {
  return presets.find((p) => p.name === $("preset").value);
}

function own() {
  return Math.round(preset().eps * 255);
}

function describe() {
  const levels = Number($("strength").value);
  $("strength-value").textContent = `${levels}/255`;
  const seen = levels > own() ? "stronger than measured, and easier to see" : "weaker than measured";
  $("strength-hint").textContent = levels === own() ? "The preset's own, for which the gains are measured." : seen;
  const small = `Small images, about ${preset().size} pixels.`;
  $("preset-hint").textContent = preset().name === "photo" ? "Photos of any size." : small;
  refresh();
}

function choosePreset() {
  $("strength").value = own();
  describe();
}

function chosen() {
  return { preset: preset().name, eps: `${$("strength").value}/255`, seed: $("seed").value || "0" };
}

// ---------------------------------------------------------------- one picture

class Picture {
  constructor(file) {
    this.file = file;
    this.state = "waiting";
    this.node = $("picture").content.firstElementChild.cloneNode(true);
    this.part(".name").textContent = file.name;
    const thumb = this.part(".thumb img");
    thumb.src = URL.createObjectURL(file);
    thumb.addEventListener("error", () => (thumb.hidden = true));
    for (const bar of this.node.querySelectorAll(".bar")) bar.setAttribute("aria-label", `Progress: ${file.name}`);
    for (const button of this.node.querySelectorAll("button, a.button")) this.label(button, button.textContent);
    this.part(".cancel").addEventListener("click", () => this.cancel());
    this.part(".remove").addEventListener("click", () => remove(this));
    this.part(".start").addEventListener("click", () => this.check());
    this.part(".halt").addEventListener("click", () => this.stop?.abort());
    this.viewer = new Viewer(this.part(".compare"));
    this.part(".compare").addEventListener("toggle", () => this.viewer.toggle());
    this.say("Waiting");
  }

  part(selector) {
    return this.node.querySelector(selector);
  }

  label(button, text) {
    button.textContent = text;
    button.setAttribute("aria-label", `${text}: ${this.file.name}`);
  }

  say(text) {
    this.part(".head .status").textContent = text;
  }

  become(state) {
    const focused = this.node.contains(document.activeElement) ? document.activeElement : undefined;
    this.state = state;
    this.node.className = `picture ${state}`;
    const busy = state === "waiting" || state === "working";
    this.part(".head .bar").hidden = state !== "working";
    this.part(".cancel").hidden = !busy;
    this.part(".remove").hidden = busy;
    for (const selector of [".facts", ".download", ".compare", ".check"]) this.part(selector).hidden = state !== "done";
    if (focused?.closest("[hidden]")) this.focus();
  }

  focus() {
    this.part(".head button:not([hidden]), .head .download:not([hidden])").focus();
  }

  // Whether protecting it again would give something else.
  get due() {
    return this.state !== "done" || Object.entries(chosen()).some(([name, value]) => this.settings[name] !== value);
  }

  wait() {
    this.stop?.abort();
    this.become("waiting");
    this.say("Waiting");
  }

  cancel() {
    if (this.state === "waiting") this.end("stopped", "Stopped");
    this.stop?.abort();
  }

  end(state, text) {
    this.become(state);
    this.say(text);
  }

  async protect() {
    this.become("working");
    this.say("Protecting");
    this.stop = new AbortController();
    try {
      if (this.file.size > limits.bytes) throw new Error(`larger than ${limits.bytes / 1e6} MB; make it smaller`);
      this.settings = chosen();
      const answer = await call("protect", { picture: this.file, ...this.settings }, this.stop, (p) => this.say(line(p)));
      this.report = JSON.parse(answer.headers.get("Mspd-Report"));
      this.done(await answer.blob());
    } catch (error) {
      if (error.name === "AbortError") this.end("stopped", "Stopped");
      else this.end("failed", error.message);
    }
    this.stop = undefined;
  }

  done(copy) {
    const { label, confidence, named_by: namer, linf, eps, ssim } = this.report;
    this.copy = copy;
    const link = this.part(".download");
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(copy);
    link.download = this.report.output;
    this.become("done");
    const sure = `${Math.round(100 * confidence)}\u00a0% sure`;
    const recognised = confidence < 0.5 ? "Recognised with little certainty" : "Recognised";
    this.say(namer === "backbone" ? `Not recognised; protected as: ${label}` : `${recognised}: ${label}, ${sure}`);
    const budget = Math.round(eps * 255);
    this.part(".facts").textContent =
      `No pixel moved by more than ${linf} of 255 (budget ${budget}), checked in the finished file. ` +
      `Likeness to the original (SSIM) ${ssim.toFixed(3)}.` +
      (confidence < 0.5 && namer !== "backbone" ? " If this name is wrong, the protection helps less." : "");
    this.part(".result").hidden = true;
    this.viewer.load(this.file, copy);
    if (!pictures.some((p) => p !== this && p.part(".compare").open)) this.part(".compare").open = true;
  }

  async check() {
    const [start, halt, under, text] = [".start", ".halt", ".running", ".stage-name"].map((s) => this.part(s));
    const bar = this.part(".running .bar");
    start.hidden = true;
    halt.hidden = under.hidden = false;
    halt.focus();
    const stop = (this.stop = new AbortController());
    try {
      const fields = { original: this.file, protected: this.copy, preset: this.settings.preset };
      const answer = await call("verify", fields, stop, (progress) => {
        text.textContent = line(progress);
        if (progress.of) [bar.max, bar.value] = [progress.of, progress.done];
      });
      const verification = await answer.json();
      this.part(".result").replaceChildren(...showVerdict(verification));
      this.label(start, "Check again");
      announce(`${this.file.name}: ${verification.verdict}`);
    } catch (error) {
      const failure = document.createElement("p");
      failure.className = "verdict none";
      failure.textContent = error.name === "AbortError" ? "Stopped." : error.message;
      this.part(".result").replaceChildren(failure);
      announce(failure.textContent);
    }
    bar.removeAttribute("value");
    this.part(".result").hidden = start.hidden = false;
    const focused = document.activeElement === halt;
    halt.hidden = under.hidden = true;
    if (focused) start.focus();
    if (this.stop === stop) this.stop = undefined; // it may be protected again by now
  }
}

// ---------------------------------------------------------------- all pictures

function announce(text) {
  $("live").textContent = text;
}

function add(files) {
  const added = Array.from(files, (file) => new Picture(file));
  for (const picture of added) {
    picture.become("waiting");
    pictures.push(picture);
    $("list").append(picture.node);
  }
  work();
  announce(`Added: ${added.length}`);
  added[0]?.node.scrollIntoView({ block: "nearest" }); // below the settings, on a phone
}

async function work() {
  refresh();
  if (running) return;
  running = true;
  for (let next; (next = pictures.find((p) => p.state === "waiting")); ) {
    refresh();
    await next.protect();
    refresh();
    announce(`${next.file.name}: ${next.part(".head .status").textContent}`);
  }
  running = false;
  refresh();
}

function refresh() {
  const focused = document.activeElement;
  const count = (state) => pictures.filter((p) => p.state === state).length;
  const open = count("waiting") + count("working");
  $("pictures").hidden = pictures.length === 0;
  const parts = [`${count("done")} of ${pictures.length} protected`];
  if (count("failed")) parts.push(`${count("failed")} failed`);
  $("pictures-title").textContent = parts.join(", ");
  $("overall").value = pictures.length ? 1 - open / pictures.length : 0;
  $("overall").hidden = open === 0;
  $("stop").hidden = open === 0;
  $("clear").hidden = open > 0;
  const due = open ? 0 : pictures.filter((p) => p.due).length;
  $("again").hidden = due === 0;
  $("again").textContent = due < pictures.length ? `Protect ${due} again` : "Protect again";
  $("download-all").hidden = count("done") < 2;
  if (focused?.closest(".toolbar [hidden]")) $("pictures-title").focus();
}

function remove(picture) {
  picture.stop?.abort();
  URL.revokeObjectURL(picture.part(".thumb img").src);
  URL.revokeObjectURL(picture.part(".download").href);
  picture.node.remove();
  const at = pictures.indexOf(picture);
  pictures.splice(at, 1);
  refresh();
  (pictures[at] ?? pictures[at - 1] ?? $("files")).focus();
}

async function downloadAll() {
  const files = pictures.filter((p) => p.state === "done").map((p) => [p.report.output, p.copy]);
  for (const [index, group] of volumes(files).entries()) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await zip(group));
    link.download = index === 0 ? "protected.zip" : `protected (${index + 1}).zip`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

// ---------------------------------------------------------------- wiring

$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
$("preset").addEventListener("change", choosePreset);
$("strength").addEventListener("input", describe);
$("new-seed").addEventListener("click", () => {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  refresh();
});
$("seed").addEventListener("input", refresh);
$("seed").addEventListener("change", () => {
  $("seed").value ||= "0"; // as an empty field is meant
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("stop").addEventListener("click", () => pictures.forEach((p) => p.cancel()));
$("again").addEventListener("click", () => {
  pictures.filter((p) => p.due).forEach((p) => p.wait());
  work();
});
$("clear").addEventListener("click", () => [...pictures].forEach(remove));
$("download-all").addEventListener("click", downloadAll);

while (presets.length === 0) {
  try {
    [presets, { limits }] = await Promise.all([ask("presets"), ask("health")]);
    $("trouble").textContent = "";
  } catch (error) {
    const trouble = `Not ready, trying again every two seconds: ${error.message}`;
    if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble; // is read aloud once
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
$("preset").replaceChildren(...presets.map((p) => new Option(p.name)));
$("preset").value = presets.some((p) => p.name === "photo") ? "photo" : presets[0].name;
choosePreset();
$("fields").inert = false;
document.documentElement.dataset.ready = "";
running = false;
work();
