// The page of the AgeMoE service: sends photographs and shows the estimates or the decision.

import { clearBoxes } from "./boxes.js";
import { closeCamera, openCamera, takePictures } from "./camera.js";
import { policyText, previewPictures, showDecision } from "./decision.js";
import { $, html, showing, svg } from "./dom.js";
import { showAges } from "./faces.js";
import { Failure, checkFiles, failureOf, sentenceOf } from "./problems.js";

const PICTURES = 5;
const PLACEHOLDERS = { demo: "placeholder weights, of drawn faces only", random: "random placeholder weights" };

let running = null;
let latest = null; // the files of the latest request
let again = () => checkService().catch(showError); // what "Try again" repeats
let limits = null; // of the service, once they are known

const deciding = () => $("decides").checked;

function setStatus(text, kind = "") {
  $("status").textContent = text;
  $("status").className = kind;
}

function showError(error) {
  const failure = error instanceof Failure ? error : new Failure("unexpected");
  if (failure !== error) console.error(error);
  setStatus("");
  hideResult();
  const text = html("div", {}, html("p", { textContent: failure.message }));
  if (failure.reference) text.append(html("p", { className: "reference", textContent: `Number for the operator: ${failure.reference}` }));
  if (failure.temporary) text.append(html("button", { type: "button", textContent: "Try again", onclick: retry }));
  const icon = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("circle", { cx: 12, cy: 12, r: 9.5 }), svg("path", { d: "M12 7v6M12 16.4v.1" }));
  $("error").replaceChildren(icon, text);
  $("error").scrollIntoView({ block: "nearest" });
}

const clearError = () => $("error").replaceChildren();

async function retry() {
  await again();
  $("error").querySelector("button")?.focus();
}

function hideResult() {
  $("result").hidden = true;
  $("picture").removeAttribute("src");
  clearBoxes();
  for (const id of ["faces", "pictures"]) $(id).replaceChildren();
  showing([]);
}

function headers() {
  const key = $("key").value.trim();
  if (/[^\x20-\xff]/.test(key)) { // no header can hold it
    throw new Failure("unauthorized", { sentence: sentenceOf("unauthorized", context()) });
  }
  return key ? { Authorization: `Bearer ${key}` } : {};
}

const context = (files = []) => ({ limits, key: $("key").value !== "", sizes: files.map(({ size }) => size) });

function form(files) {
  const data = new FormData();
  for (const file of files) data.append("image", file, "photograph");
  if (deciding()) return data;
  data.append("detect", $("detect").checked);
  if ($("threshold").value !== "") data.append("threshold", $("threshold").value);
  return data;
}

// Sends pictures and shows the answer; `move` brings the result into view and focuses it.
async function send(chosen, { move = true } = {}) {
  const files = deciding() ? [...chosen] : [...chosen].slice(0, 1);
  if (files.length === 0) return;
  closeCamera();
  running?.abort();
  const mine = (running = new AbortController());
  latest = files;
  again = () => send(files);
  clearError();
  const [path, show] = deciding() ? ["v1/decisions", showDecision] : ["v1/ages", showAges];
  try {
    if (!deciding() && !$("threshold").validity.valid) throw new Failure("no-number");
    checkFiles(files, limits);
    const urls = preview(files, move);
    const response = await request(path, { method: "POST", body: form(files), headers: headers(), signal: mine.signal });
    if (response.status === 401) $("options").open = true;
    if (!response.ok) throw await failureOf(response, context(files));
    const answer = await response.json();
    announce(answer.stand_ins);
    const [text, hint] = await show(urls, answer);
    if (mine.signal.aborted) return;
    showTimes(answer);
    setBusy(false);
    const rest = chosen.length > files.length ? ` Only the first of ${chosen.length} pictures is used: choose one at a time.` : "";
    setStatus(text + rest, hint ? "hint" : "");
    if (move) $("heading").focus({ preventScroll: true });
    if (move) $("status").scrollIntoView();
  } catch (error) {
    if (!mine.signal.aborted) showError(error);
  }
}

async function sendExample(name) {
  running?.abort();
  const mine = (running = new AbortController());
  latest = null;
  again = () => sendExample(name);
  try {
    const response = await request(`page/examples/${name}`, { signal: mine.signal });
    if (!response.ok) throw await failureOf(response, context());
    const picture = await response.blob();
    if (!mine.signal.aborted) await send([picture]);
  } catch (error) {
    if (!mine.signal.aborted) showError(error);
  }
}

// Shows the pictures at once, while the service works on them; returns their addresses.
function preview(files, move) {
  hideResult();
  const urls = showing(files);
  $("heading").textContent = "Result";
  for (const id of ["photo", "verdict", "made"]) $(id).hidden = true;
  $("times").textContent = "";
  if (deciding()) {
    previewPictures(urls);
  } else {
    $("picture").src = urls[0];
    $("photo").hidden = false;
  }
  $("result").hidden = false;
  setBusy(true);
  setStatus(deciding() ? "Deciding …" : "Estimating …", "busy");
  if (move) $("status").scrollIntoView();
  return urls;
}

function setBusy(busy) {
  $("result").ariaBusy = busy;
}

function showTimes({ times_ms, version }) {
  const times = Object.entries(times_ms).map(([stage, ms]) => `${stage.replaceAll("_", " ")} ${ms.toFixed(0)} ms`);
  $("times").textContent = `This request: ${times.join(", ")}. Experts' times are medians of their latest batches. Engines ${version}.`;
}

async function request(path, options = {}) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("unreachable");
  }
}

function announce(placeholders) {
  const names = Object.keys(placeholders);
  $("notice").hidden = names.length === 0;
  $("notice").textContent = `${names.join(", ")} ${names.length === 1 ? "has" : "have"} placeholder weights: the ages of real photographs are meaningless. The drawn examples show how the page works.`;
}

function describe({ stand_ins, experts, policy, limits: stated }) {
  limits = stated;
  announce(stand_ins);
  $("experts").replaceChildren(...experts.map(({ name, license, location, source }) => html("li", {},
    html("b", { textContent: name }), `: ${license ?? "no license stated"}, `,
    html("span", { textContent: location ?? PLACEHOLDERS[source] ?? "from a file of the operator" }))));
  $("about").hidden = false;
  const known = !$("mode").hidden;
  $("mode").hidden = !policy;
  if (policy) $("policy").textContent = policyText(policy);
  if (policy && !known) $("decides").checked = true;
  if (!policy) $("estimates").checked = true;
  setMode();
}

function setMode() {
  for (const element of document.querySelectorAll("[data-mode]")) {
    element.hidden = (element.dataset.mode === "decision") !== deciding();
  }
  document.body.classList.toggle("deciding", deciding());
  $("file").multiple = deciding();
}

async function checkService() {
  const response = await request("v1/experts", { headers: headers() });
  if (response.ok) {
    clearError();
    return describe(await response.json());
  }
  if (response.status === 401) $("options").open = true;
  throw await failureOf(response, context());
}

for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    running?.abort();
    latest = null;
    again = () => checkService().catch(showError);
    setMode();
    setStatus("");
    clearError();
    hideResult();
  });
}
for (const id of ["file", "shot"]) {
  $(id).addEventListener("change", () => {
    send([...$(id).files]);
    $(id).value = "";
  });
}
for (const id of ["threshold", "detect"]) {
  $(id).addEventListener("change", () => { if (latest) send(latest, { move: false }); });
}
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragenter" || type === "dragover");
    if (type !== "drop") return;
    const files = event.dataTransfer?.files ?? [];
    if (files.length > 0) send(files);
    else showError(new Failure("no-file"));
  });
}
document.addEventListener("paste", (event) => send(event.clipboardData?.files ?? []));
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => sendExample(button.dataset.example));
}
$("picture").addEventListener("error", () => { $("photo").hidden = true; });
$("open").addEventListener("click", async () => {
  setStatus("");
  clearError();
  try {
    await openCamera();
    $("take").focus();
  } catch (error) {
    showError(error);
  }
});
$("take").addEventListener("click", async () => {
  try {
    const count = deciding() ? PICTURES : 1;
    const files = await takePictures(count, (number) => setStatus(`Picture ${number} of ${count} …`, "busy"));
    if (files) send(files);
  } catch (error) {
    showError(error);
  }
});
$("close").addEventListener("click", () => {
  closeCamera();
  setStatus("");
  $("open").focus();
});
document.addEventListener("visibilitychange", () => { if (document.hidden) closeCamera(); });
$("key").addEventListener("change", async () => {
  try {
    await checkService();
    if (latest) send(latest);
  } catch (error) {
    showError(error);
  }
});
checkService().catch(showError);
