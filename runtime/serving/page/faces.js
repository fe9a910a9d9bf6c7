// The estimates of all faces in a photograph.

import { $, crop, html, interval, percent, probability, showing, signed, svg, years } from "./dom.js";

const OLDEST = 100;
const TICKS = [0, 20, 40, 60, 80, 100];

// Shows the answer to a request for ages; returns a sentence about it.
export async function showAges([file], answer) {
  const [image] = answer.images;
  const [url] = showing([file]);
  $("picture").src = url;
  await $("picture").decode();
  drawBoxes(image);
  $("faces").replaceChildren(...image.faces.map((face, index) => card(face, index, image, answer, url)));
  $("legend").hidden = !image.faces.some((face) => face.estimate);
  const count = image.faces.length;
  if (count === 0) return "No face was detected. If the picture is a single face, switch “Detect faces” off.";
  return count === 1 ? "1 face." : `${count} faces, from left to right.`;
}

function drawBoxes({ width, height, faces }) {
  const largest = Math.max(width, height) / 22;
  $("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const marks = faces.flatMap((face) => {
    if (!face.box) return [];
    const [x, y, w, h] = face.box;
    const size = Math.min(Math.max(w * 0.4, largest / 2), largest);
    const line = (text, share, above) => svg("text", {
      x: x + w / 2, y: Math.max(y - size * above, size * (1.9 - above)), "font-size": size * share, "stroke-width": size * share / 6,
    }, text);
    const texts = [line(face.estimate ? years(face.estimate.age_years) : "?", 1, 0.9)];
    if (face.estimate && face.estimate.low_years !== null) {
      texts.push(line(`${face.estimate.low_years.toFixed(0)} … ${face.estimate.high_years.toFixed(0)}`, 0.5, 0.3));
    }
    return [svg("rect", { x, y, width: w, height: h, rx: w / 20 }), ...texts];
  });
  $("boxes").replaceChildren(...marks);
}

function card(face, index, image, answer, url) {
  const title = html("h3", {}, html("span", { textContent: `Face ${index + 1}` }));
  const head = html("div", { className: "head" }, crop(face.box, image, url), html("div", {}, title));
  if (face.problem) {
    head.lastChild.append(html("p", { textContent: face.problem.detail }));
    return html("li", { className: "refused" }, head);
  }
  const { estimate } = face;
  title.append(" ", html("b", { textContent: years(estimate.age_years) }), " years");
  head.lastChild.append(interval(estimate));
  const extra = [];
  if (estimate.at_least) {
    const { threshold, probability: nearest, low, high } = estimate.at_least;
    extra.push(`At least ${threshold}: ${probability(nearest, low, high)}.`);
  }
  for (const [name, reason] of Object.entries(estimate.missing)) extra.push(`${name} is missing: ${reason}.`);
  for (const note of estimate.notes) extra.push(`Note: ${note}.`);
  const notes = extra.map((text) => html("p", { className: "note", textContent: text }));
  return html("li", {}, head, ...notes, table(estimate, answer.experts_ms));
}

// The experts' predictions and their combination.
export function table(estimate, experts_ms) {
  const names = [["Expert"], ["Predicted"], ["Correction"], ["Corrected", "wide"], ["Weight"], ["Time"]];
  const titles = names.map(([text, kind]) => html("th", { textContent: text, scope: "col", role: "columnheader", className: kind ?? "" }));
  const scale = html("th", { scope: "col", role: "columnheader", className: "chart wide", ariaLabel: "On a scale from 0 to 100 years" }, ticks());
  const head = html("tr", { role: "row" }, ...titles, scale);
  const rows = Object.entries(estimate.experts).map(([name, expert]) => row(name, expert, experts_ms[name]));
  const fused = html("tr", { role: "row", className: "fused" },
    cell("combined"), cell(""), cell(""), cell(years(estimate.age_years), "wide"), cell(""), cell(""),
    html("td", { role: "cell", className: "chart" }, fusedChart(estimate)));
  // On phones rows are grids, which removes the implicit roles of a table.
  const body = html("tbody", { role: "rowgroup" }, ...rows, fused);
  return html("table", { role: "table" }, html("thead", { role: "rowgroup" }, head), body);
}

function ticks() {
  const texts = TICKS.map((age) => svg("text", { x: at(age), y: "75%", "text-anchor": "middle" }, age));
  return svg("svg", { class: "row", "aria-hidden": "true" }, ...texts);
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
