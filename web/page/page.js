// The page: hands pictures to the worker and shows what comes back.

const byId = (id) => document.getElementById(id);
const jobs = new Map();
const opened = location.protocol === "file:"; // which gets no worker
const worker = opened ? undefined : new Worker(`worker.js${location.search}`, { type: "module" });

const STAGES = {
  reading: "Reading the picture…",
  defending: "Computing the protection…",
  writing: "Writing the PNG…",
  checking: "Checking the written PNG…",
};

worker?.addEventListener("message", ({ data }) => answers[data.kind](data));
worker?.addEventListener("error", () => answers.broken({ message: "the page's files are incomplete; reload it" }));

const answers = {
  loading({ loaded, total }) {
    byId("loading").value = loaded / total;
    const text = `Loading the networks: ${megabytes(loaded)} of ${megabytes(total)} MB`;
    byId("state").textContent = loaded < total ? text : "Starting the networks…";
  },
  ready({ provider, threads, eps }) {
    const where = { webgpu: "on the graphics processor", wasm: `on the processor${threads > 1 ? `, ${threads} threads` : ""}` };
    byId("loading").hidden = true;
    byId("state").textContent = `Ready, ${where[provider]}. No network is needed from here on.`;
    document.body.dataset.ready = provider;
    if (!byId("levels").dataset.chosen) choose(Math.floor(eps * 255 + 1e-4));
  },
  broken({ message }) {
    byId("loading").hidden = byId("drop").hidden = true;
    byId("state").textContent = `This does not work here: ${message}.`;
    document.body.dataset.ready = "broken";
  },
  progress({ id, stage, share }) {
    const { item } = jobs.get(id);
    item.querySelector("progress").value = share;
    line(item, STAGES[stage]);
  },
  failed({ id, message }) {
    const { item } = jobs.get(id);
    item.querySelector("progress").hidden = true;
    item.dataset.state = "failed";
    line(item, `Failed: ${message}.`);
  },
  done: show,
};

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(0);
}

function line(item, text) {
  const place = item.querySelector(".line");
  if (place.textContent !== text) place.textContent = text;
}

function choose(levels) {
  const select = byId("levels");
  if (![...select.options].some((option) => option.value === String(levels))) {
    select.append(new Option(`${levels} of 255 grey levels`, levels));
  }
  select.value = levels;
}

byId("levels").addEventListener("change", ({ target }) => (target.dataset.chosen = "yes"));

/** The seed to use, undefined for a random one, null for something that is none. */
function chosenSeed() {
  const text = byId("seed").value.trim();
  if (text === "") return undefined;
  return /^\d+$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : null;
}

function take(files) {
  if (document.body.dataset.ready === "broken") return;
  const seed = chosenSeed();
  byId("seed").setAttribute("aria-invalid", seed === null);
  if (seed === null) {
    byId("seed-help").textContent = "Write a whole number from 0 to 9007199254740991, or leave it empty.";
    byId("settings").open = true;
    byId("seed").focus();
    return;
  }
  for (const file of files) {
    const id = jobs.size;
    const item = byId("picture").content.cloneNode(true).querySelector("li");
    item.querySelector("h2").textContent = file.name;
    item.querySelector("progress").setAttribute("aria-label", `Progress of ${file.name}`);
    line(item, "Waiting…");
    byId("pictures").append(item);
    jobs.set(id, { item, file });
    worker.postMessage({ id, file, levels: Number(byId("levels").value), seed });
  }
}

function show({ id, blob, differences, most, height, width, label, sure, own, defended, took }) {
  const { item, file } = jobs.get(id);
  const [before, after, difference] = ["before", "after", "difference"].map((name) => item.querySelector(`.${name}`));
  before.src = URL.createObjectURL(file);
  after.src = URL.createObjectURL(blob);
  difference.src = URL.createObjectURL(differences);
  before.alt = `${file.name}, original`;
  after.alt = `${file.name}, protected`;
  difference.alt = `${file.name}, what changed, 16 times as strong`;
  const compare = item.querySelector(".compare");
  compare.style.setProperty("--ratio", width / height);
  compare.style.setProperty("--widest", `${Math.max(width, 256)}px`);
  const slider = item.querySelector("[type=range]");
  slider.addEventListener("input", () => compare.style.setProperty("--cut", `${slider.value}%`));
  slider.setAttribute("aria-label", `Original or protected: ${file.name}`);
  item.querySelector("[type=checkbox]").addEventListener("change", ({ target }) => {
    difference.hidden = !target.checked;
    slider.disabled = target.checked;
  });
  const link = item.querySelector(".download");
  link.href = after.src;
  link.download = `${file.name.replace(/\.[^.]*$/, "")}.protected.png`;
  link.setAttribute("aria-label", `Download ${link.download}`);

  const percent = `${Math.round(100 * sure)}\u00a0% sure${own ? ", named by the backbone" : sure < 0.5 ? ", which is low" : ""}`;
  const seconds = `${(took / 1000).toFixed(1)}\u00a0s`;
  line(item, `Read as ${label} (${percent}). No pixel moved by more than ${most} of 255. ${width}\u00a0×\u00a0${height}, ${seconds}.`);
  item.querySelector("progress").hidden = true;
  item.querySelector(".result").hidden = false;
  Object.assign(item.dataset, { state: "done", label, most, defended, took });
}

byId("files").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = "";
});

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});

if (opened) answers.broken({ message: "it was opened as a file; serve its folder by http or https, for example with python3 -m http.server" });
