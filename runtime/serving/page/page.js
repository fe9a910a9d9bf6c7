// The page of the AgeMoE service: sends a photograph and shows the estimates.

const SVG = "http://www.w3.org/2000/svg";
const OLDEST = 100;
const TICKS = [0, 20, 40, 60, 80, 100];
const $ = (id) => document.getElementById(id);

let running = null;
let shown = null;

function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const years = (value) => value.toFixed(1);
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
const percent = (value) => `${Math.round(value * 100)} %`;

function setStatus(text, problem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
}

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function detailOf(response) {
  try {
    return (await response.json()).detail ?? response.statusText;
  } catch {
    return `The service responded with ${response.status} ${response.statusText}.`;
  }
}

async function requestEstimate(file) {
  running?.abort();
  const mine = (running = new AbortController());
  const form = new FormData();
  form.append("image", file, "photograph");
  form.append("detect", $("detect").checked);
  if ($("threshold").value !== "") form.append("threshold", $("threshold").value);
  setStatus("Estimating …");
  $("result").classList.add("stale");
  try {
    const response = await request("v1/ages", { method: "POST", body: form, headers: headers(), signal: mine.signal });
    if (response.status === 401) $("key").closest("details").open = true;
    if (!response.ok) throw new Error(await detailOf(response));
    await show(file, await response.json());
  } catch (error) {
    if (mine.signal.aborted) return;
    $("result").hidden = true;
    setStatus(error.message, true);
  }
}

async function request(path, options = {}) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached. Try again in a moment.");
  }
}

async function show(file, answer) {
  const [image] = answer.images;
  announce(answer.stand_ins);
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  $("picture").src = shown;
  await $("picture").decode();
  drawBoxes(image);
  $("faces").replaceChildren(...image.faces.map((face, index) => card(face, index, image, answer)));
  const times = Object.entries(answer.times_ms).map(([stage, ms]) => `${stage.replaceAll("_", " ")} ${ms.toFixed(0)} ms`);
  $("times").textContent = `This request: ${times.join(", ")}. Experts' times are medians of their latest batches. Engines ${answer.version}.`;
  $("result").hidden = false;
  $("result").classList.remove("stale");
  const count = image.faces.length;
  $("legend").hidden = !image.faces.some((face) => face.estimate);
  if (count === 0) setStatus("No face was detected. If the picture is a single face, switch “Detect faces” off.");
  else setStatus(count === 1 ? "1 face." : `${count} faces, from left to right.`);
  $("heading").focus({ preventScroll: true });
  $("status").scrollIntoView();
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

function card(face, index, image, answer) {
  const title = html("h3", {}, html("span", { textContent: `Face ${index + 1}` }));
  const head = html("div", { className: "head" }, crop(face, image), html("div", {}, title));
  if (face.problem) {
    head.lastChild.append(html("p", { textContent: face.problem.detail }));
    return html("li", { className: "refused" }, head);
  }
  const { estimate } = face;
  title.append(" ", html("b", { textContent: years(estimate.age_years) }), " years");
  head.lastChild.append(interval(estimate));
  const extra = [];
  if (estimate.at_least) extra.push(`At least ${estimate.at_least.threshold}: ${probability(estimate.at_least)}.`);
  for (const [name, reason] of Object.entries(estimate.missing)) extra.push(`${name} is missing: ${reason}.`);
  for (const note of estimate.notes) extra.push(`Note: ${note}.`);
  const notes = extra.map((text) => html("p", { className: "note", textContent: text }));
  return html("li", {}, head, ...notes, table(estimate, answer.experts_ms));
}

// Where the tables state no probability, the answer holds bounds of it.
function probability({ probability: nearest, low, high }) {
  if (low === high) return percent(nearest);
  return `${low === 0 ? "at most" : "at least"} ${(100 * nearest).toFixed(1)} %`;
}

function interval({ low_years: low, high_years: high, interval_level: level }) {
  if (low === null) return html("p", { className: "quiet", textContent: "Not calibrated: no interval available." });
  const range = html("span", { textContent: `${years(low)} … ${years(high)}` });
  return html("p", { className: "quiet" }, `${percent(level)} interval: `, range);
}

// The face with a margin, cropped from the photograph in the page.
function crop({ box }, { width, height }) {
  const [x, y, w, h] = box ?? [0, 0, width, height];
  const margin = box ? Math.max(w, h) / 5 : 0;
  const view = [x - margin, y - margin, w + 2 * margin, h + 2 * margin].join(" ");
  return svg("svg", { class: "crop", viewBox: view, preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" },
    svg("image", { href: shown, width, height }));
}

function table(estimate, experts_ms) {
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

function announce(placeholders) {
  const names = Object.keys(placeholders);
  $("notice").hidden = names.length === 0;
  $("notice").textContent = `${names.join(", ")} ${names.length === 1 ? "has" : "have"} placeholder weights: the ages of real photographs are meaningless. The drawn examples show how the page works.`;
}

function describe({ stand_ins, experts }) {
  announce(stand_ins);
  const named = experts.map(({ name, license }) => `${name} (${license ?? "no license stated"})`);
  $("experts").textContent = `Experts: ${named.join(", ")}.`;
}

async function checkService() {
  const response = await request("v1/experts", { headers: headers() });
  if (response.ok) return describe(await response.json());
  if (response.status !== 401) throw new Error(await detailOf(response));
  $("key").closest("details").open = true;
  setStatus($("key").value ? await detailOf(response) : "This service requires an API key: enter it under Options.", true);
}

const showError = (error) => setStatus(error.message, true);

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) requestEstimate(file);
  $("file").value = "";
});
for (const type of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    const [file] = event.dataTransfer?.files ?? [];
    if (type === "drop" && file) requestEstimate(file);
  });
}
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) requestEstimate(file);
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    try {
      const response = await request(`page/examples/${button.dataset.example}`);
      requestEstimate(await response.blob());
    } catch (error) {
      showError(error);
    }
  });
}
$("key").addEventListener("change", () => { setStatus(""); checkService().catch(showError); });
checkService().catch(showError);
