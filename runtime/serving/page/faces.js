// The estimates of all faces in a photograph.

import { drawBoxes, inReadingOrder } from "./boxes.js";
import { $, crop, html, interval, percent, probability, signed, svg, years } from "./dom.js";
import { sentenceOf, slugOf } from "./problems.js";

const OLDEST = 100;
const TICKS = [0, 20, 40, 60, 80, 100];

// Shows the answer to a request for ages; returns a sentence about it and whether it is a hint.
export async function showAges([url], answer) {
  const [image] = answer.images;
  await $("picture").decode();
  const faces = inReadingOrder(image.faces);
  drawBoxes(image, faces);
  $("faces").className = faces.length > 1 ? "several" : "";
  $("faces").replaceChildren(...faces.map((face, index) => card(face, index, faces.length > 1, image, answer, url)));
  const count = faces.length;
  if (count === 0) return [`${sentenceOf("no-face")} If it is a single face from edge to edge, switch “Detect faces” off under Options.`, true];
  return [count === 1 ? "1 face." : `${count} faces, numbered in reading order.`, false];
}

function card(face, index, several, image, answer, url) {
  const title = html("h3", {}, html("span", { className: several ? "unseen" : "name", textContent: `Face ${index + 1}` }));
  const text = html("div", {}, title);
  const number = several ? [html("span", { className: "number", textContent: index + 1, ariaHidden: "true" })] : [];
  const portrait = html("div", { className: "portrait" }, crop(face.box, image, url), ...number);
  const head = html("div", { className: "head" }, portrait, text);
  if (face.problem) {
    text.append(html("p", { textContent: sentenceOf(slugOf(face.problem)) }));
    for (const reason of face.problem.reasons ?? []) text.append(html("p", { className: "quiet", textContent: `${reason[0].toUpperCase()}${reason.slice(1)}.` }));
    return html("li", { className: "refused" }, head);
  }
  const { estimate } = face;
  const age = [html("b", { textContent: years(estimate.age_years) }), " years"];
  if (estimate.at_least) {
    const { threshold, probability: nearest, low, high } = estimate.at_least;
    title.className = "chance";
    title.append(` At least ${threshold}: `, html("b", { textContent: probability(nearest, low, high) }));
    text.append(html("p", { className: "age" }, ...age));
  } else {
    title.append(" ", ...age);
  }
  text.append(interval(estimate));
  const notes = Object.entries(estimate.missing).map(([expert, reason]) => `${expert} is missing: ${reason}.`);
  for (const note of estimate.notes) notes.push(`Note: ${note}.`);
  const details = html("details", { open: !several }, html("summary", { textContent: "Each expert's prediction" }), ...predictions(estimate, answer.experts_ms));
  return html("li", {}, head, ...notes.map((note) => html("p", { className: "note", textContent: note })), details);
}

// The experts' predictions and their combination, with the meaning of the marks.
export function predictions(estimate, experts_ms) {
  const mark = (width, shape, text) => html("span", {}, svg("svg", { viewBox: `0 0 ${width} 14`, "aria-hidden": "true" }, shape), ` ${text}`);
  const legend = html("p", { className: "legend quiet" },
    mark(14, svg("circle", { class: "raw", cx: 7, cy: 7, r: 4 }), "raw prediction"),
    mark(14, svg("circle", { class: "corrected", cx: 7, cy: 7, r: 4.5 }), "corrected prediction"),
    ...(estimate.low_years === null ? [] : [mark(28, svg("rect", { class: "interval", y: 2, width: 28, height: 10, rx: 4 }), "interval of the estimate")]));
  return [table(estimate, experts_ms), legend];
}

function table(estimate, experts_ms) {
  const names = [["Expert"], ["Predicted"], ["Correction"], ["Corrected", "wide"], ["Weight"], ["Time"]];
  const titles = names.map(([text, kind]) => html("th", { textContent: text, scope: "col", role: "columnheader", className: kind ?? "" }));
  const scale = html("th", { scope: "col", role: "columnheader", className: "chart wide" },
    html("span", { className: "unseen", textContent: "On a scale from 0 to 100 years" }), ticks());
  const head = html("tr", { role: "row" }, ...titles, scale);
  const rows = Object.entries(estimate.experts).map(([name, expert]) => row(name, expert, experts_ms[name]));
  const fused = html("tr", { role: "row", className: "fused" },
    cell("combined"), cell(""), cell(""), cell(years(estimate.age_years), "wide"), cell(""), cell(""),
    html("td", { role: "cell", className: "chart" }, fusedChart(estimate), ticks("narrow")));
  // On phones rows are grids, which removes the implicit roles of a table.
  const body = html("tbody", { role: "rowgroup" }, ...rows, fused);
  return html("table", { role: "table" }, html("thead", { role: "rowgroup" }, head), body);
}

// The numbers of the scale: above the charts, and on phones below them.
function ticks(kind = "") {
  const texts = TICKS.map((age) => svg("text", { x: at(age), y: "75%", "text-anchor": "middle" }, age));
  return svg("svg", { class: `row ${kind}`, "aria-hidden": "true" }, ...texts);
}

function row(name, { age_years: age, corrected_years: corrected, weight }, ms) {
  const share = cell(percent(weight));
  share.append(svg("svg", { class: "weight", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "all", width: 100, height: 20, rx: 6 }),
    svg("rect", { class: "part", width: Math.max(weight * 100, 1), height: 20, rx: 6 })));
  return html("tr", { role: "row" },
    cell(name), cell(years(age)), cell(signed(corrected - age)), cell(years(corrected), "wide"), share,
    cell(ms === undefined ? "" : `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`),
    html("td", { role: "cell", className: "chart" }, expertChart(age, corrected)));
}

function cell(text, kind = "") {
  return html("td", { textContent: text, role: "cell", className: kind });
}

function chart(...marks) {
  const grid = TICKS.map((age) => svg("line", { class: "axis", x1: at(age), x2: at(age), y1: "-15%", y2: "115%" }));
  return svg("svg", { class: "row", "aria-hidden": "true" }, ...grid, ...marks);
}

const at = (age) => `${(Math.min(Math.max(age, 0), OLDEST) / OLDEST) * 100}%`;

function expertChart(age, corrected) {
  return chart(
    svg("line", { class: "moved", x1: at(age), x2: at(corrected), y1: "50%", y2: "50%" }),
    svg("circle", { class: "raw", cx: at(age), cy: "50%", r: 4 }),
    svg("circle", { class: "corrected", cx: at(corrected), cy: "50%", r: 4.5 }));
}

function fusedChart({ age_years: age, low_years: low, high_years: high }) {
  const band = low === null ? [] : [svg("rect", { class: "interval", x: at(low), width: `${high - low}%`, y: "15%", height: "70%", rx: 4 })];
  return chart(...band, svg("circle", { class: "corrected", cx: at(age), cy: "50%", r: 6 }));
}
