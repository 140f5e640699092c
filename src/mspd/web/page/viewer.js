// Before and after on one sheet, with a divider; their difference times 16; zoom.

const LARGEST = 16e6; // pixels of a canvas; larger pictures are shown smaller

export class Viewer {
  constructor(node) {
    this.node = node;
    const part = (selector) => node.querySelector(selector);
    [this.stage, this.sheet, this.slide, this.zoom] = [".stage", ".sheet", ".slide", ".zoom"].map(part);
    [this.before, this.after, this.difference] = [".before", ".after", ".difference"].map(part);
    [this.amplify, this.divider, this.note] = [".amplify", ".divider", ".note"].map(part);
    this.slide.addEventListener("input", () => this.divide());
    this.zoom.addEventListener("change", () => this.fit());
    this.amplify.addEventListener("change", () => this.showDifference());
    this.sheet.addEventListener("pointerdown", (event) => this.drag(event));
    this.sheet.addEventListener("pointermove", (event) => event.buttons && this.drag(event));
    new ResizeObserver(() => this.fit()).observe(node);
  }

  load(original, copy) {
    this.files = [original, copy];
    this.drawn = false;
    this.toggle();
  }

  // Pictures are decoded while the viewer is open, and let go when it is closed.
  async toggle() {
    if (!this.node.open) {
      for (const canvas of [this.before, this.after, this.difference]) canvas.width = canvas.height = 0;
      this.drawn = false;
    } else if (!this.drawn && this.files) {
      this.drawn = true;
      const [original, copy] = await Promise.all(this.files.map((f) => createImageBitmap(f).catch(() => undefined)));
      this.note.hidden = original !== undefined && copy !== undefined;
      this.note.textContent = "This browser cannot show the format of the original; here is the copy alone.";
      this.node.classList.toggle("alone", !this.note.hidden);
      if (copy === undefined) return;
      const scale = Math.min(1, Math.sqrt(LARGEST / (copy.width * copy.height)));
      for (const [canvas, bitmap] of [[this.before, original ?? copy], [this.after, copy]]) {
        canvas.width = Math.max(1, Math.round(copy.width * scale));
        canvas.height = Math.max(1, Math.round(copy.height * scale));
        canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      }
      this.before.setAttribute("aria-label", original ? "The original" : "The protected copy");
      this.after.setAttribute("aria-label", "The protected copy");
      this.difference.setAttribute("aria-label", "What was changed, times 16, on grey");
      this.difference.width = this.difference.height = 0;
      this.fit();
      this.showDifference();
    }
  }

  fit() {
    const { width, height } = this.after;
    if (!this.node.open || !width) return;
    const room = Math.min(this.stage.clientWidth, (0.7 * window.innerHeight * width) / height, width * 8);
    const shown = room * Number(this.zoom.value);
    this.sheet.style.width = `${shown}px`;
    this.sheet.style.height = `${(shown * height) / width}px`;
    this.stage.classList.toggle("zoomed", this.zoom.value !== "1");
    this.stage.classList.toggle("coarse", shown >= 2 * width);
    this.divide();
  }

  divide() {
    const at = this.slide.value;
    this.before.style.clipPath = `inset(0 ${100 - at}% 0 0)`; // or it would shine through a transparent copy
    this.after.style.clipPath = `inset(0 0 0 ${at}%)`;
    this.divider.style.left = `${at}%`;
    this.slide.setAttribute("aria-valuetext", `${at} % original, ${100 - at} % protected`);
  }

  drag(event) {
    if (event.pointerType !== "mouse" && this.zoom.value !== "1") return; // a finger scrolls
    const box = this.sheet.getBoundingClientRect();
    this.slide.value = (100 * (event.clientX - box.left)) / box.width;
    this.divide();
  }

  showDifference() {
    const on = this.amplify.checked;
    this.difference.hidden = !on;
    this.stage.classList.toggle("amplified", on);
    const { width, height } = this.after;
    if (!on || !width || this.difference.width) return;
    const [a, b] = [this.before, this.after].map((c) => c.getContext("2d").getImageData(0, 0, width, height));
    for (let i = 0; i < b.data.length; i++) b.data[i] = i % 4 === 3 ? 255 : 128 + 16 * (b.data[i] - a.data[i]);
    [this.difference.width, this.difference.height] = [width, height];
    this.difference.getContext("2d").putImageData(b, 0, 0);
  }
}
