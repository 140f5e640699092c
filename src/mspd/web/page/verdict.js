// What `verify` found, in words and drawn: how far the name leads under attack, before and after.

const VERSIONS = [["", "as it is"], ["_jpeg", "after JPEG 75"], ["_half", "at half the size"]];

function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

function shape(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const broken = (value) => (value === null ? "over 32" : value.toFixed(1));

// A line from the original's lead (ring) to the copy's (dot), on an axis with zero; at or left of zero the name is lost.
function plot(was, is, least, most) {
  const at = (value) => `${4 + (92 * (value - least)) / (most - least)}%`;
  const svg = shape("svg", { "aria-hidden": "true" });
  svg.append(
    shape("line", { class: "axis", x1: "0", x2: "100%", y1: "50%", y2: "50%" }),
    shape("line", { class: "zero", x1: at(0), x2: at(0), y1: "5%", y2: "95%" }),
    shape("line", { class: "move", x1: at(was), x2: at(is), y1: "50%", y2: "50%" }),
    shape("circle", { class: "was", cx: at(was), cy: "50%", r: "5" }),
    shape("circle", { class: "is", cx: at(is), cy: "50%", r: "6" }),
  );
  return svg;
}

function targetTable(target, least, most) {
  const rows = VERSIONS.map(([ending, name]) => {
    const [was, is] = [target[`original${ending}`], target[`protected${ending}`]];
    return element("tr", {},
      element("th", { scope: "row", textContent: name }),
      element("td", { className: "plot" }, plot(was.margin, is.margin, least, most)),
      element("td", { className: "number", textContent: `${signed(was.margin)} → ${signed(is.margin)}` }),
      element("td", { className: "number", textContent: `${broken(was.breaks_at)} → ${broken(is.breaks_at)}` }),
    );
  });
  const heads = ["version", "lead under attack", "in logits", "breaks at (of 255)"];
  const head = element("tr", {}, ...heads.map((textContent) => element("th", { scope: "col", textContent })));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  const { original, protected: copy } = target;
  const alone = original.prediction === copy.prediction ? `reads both as “${copy.prediction}”`
    : `reads the original as “${original.prediction}”, the copy as “${copy.prediction}”`;
  return element("section", { className: "target" },
    element("h4", { textContent: target.target }),
    element("small", { textContent: `Not attacked, it ${alone}.` }),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Readings of ${target.target}` }, table),
  );
}

export function showVerdict({ verdict, label, gain, gain_jpeg, gain_half, chance, remark, targets }) {
  const helps = verdict === "helps";
  const change = `changes by ${signed(gain)} logits (after JPEG ${signed(gain_jpeg)}, at half the size ${signed(gain_half)})`;
  const ending = `${helps ? "; " : ": too little to tell from chance, "}noise as strong stays below ${signed(chance)}. ${remark}`;
  const sentence = `Under attack, the lead of “${label}” over other names ${change}${ending}`;
  const margins = targets.flatMap((t) => Object.values(t).filter((r) => r.margin !== undefined).map((r) => r.margin));
  const [least, most] = [Math.min(-0.5, ...margins), Math.max(0.5, ...margins)];
  return [
    element("p", { className: helps ? "verdict" : "verdict none" },
      element("strong", { textContent: helps ? "It helps. " : "No effect found. " }), sentence),
    ...targets.map((target) => targetTable(target, least, most)),
    element("p", { className: "key" },
      element("span", {}, element("i", { className: "was-dot" }), "original"),
      element("span", {}, element("i", { className: "is-dot" }), "protected"),
      element("span", { textContent: "left of the dashed line another name leads; farther right is better" })),
  ];
}
