// The page of the AgeMoE service: sends photographs and shows the estimates or the decision.

import { closeCamera, openCamera, takePictures } from "./camera.js";
import { policyText, showDecision } from "./decision.js";
import { $ } from "./dom.js";
import { showAges } from "./faces.js";

const PICTURES = 5;

let running = null;

const deciding = () => $("decides").checked;

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

function form(files) {
  const data = new FormData();
  for (const file of files) data.append("image", file, "photograph");
  if (deciding()) return data;
  data.append("detect", $("detect").checked);
  if ($("threshold").value !== "") data.append("threshold", $("threshold").value);
  return data;
}

async function send(chosen) {
  const files = deciding() ? [...chosen] : [...chosen].slice(0, 1);
  if (files.length === 0) return;
  closeCamera();
  running?.abort();
  const mine = (running = new AbortController());
  const [path, show] = deciding() ? ["v1/decisions", showDecision] : ["v1/ages", showAges];
  setStatus(deciding() ? "Deciding …" : "Estimating …");
  $("result").classList.add("stale");
  try {
    const response = await request(path, { method: "POST", body: form(files), headers: headers(), signal: mine.signal });
    if (response.status === 401) $("key").closest("details").open = true;
    if (!response.ok) throw new Error(await detailOf(response));
    const answer = await response.json();
    announce(answer.stand_ins);
    $("heading").textContent = "Result";
    const text = await show(files, answer);
    if (mine.signal.aborted) return;
    showTimes(answer);
    $("result").hidden = false;
    $("result").classList.remove("stale");
    setStatus(text);
    $("heading").focus({ preventScroll: true });
    $("status").scrollIntoView();
  } catch (error) {
    if (mine.signal.aborted) return;
    $("result").hidden = true;
    setStatus(error.message, true);
  }
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
    throw new Error("The service cannot be reached. Try again in a moment.");
  }
}

function announce(placeholders) {
  const names = Object.keys(placeholders);
  $("notice").hidden = names.length === 0;
  $("notice").textContent = `${names.join(", ")} ${names.length === 1 ? "has" : "have"} placeholder weights: the ages of real photographs are meaningless. The drawn examples show how the page works.`;
}

function describe({ stand_ins, experts, policy }) {
  announce(stand_ins);
  const named = experts.map(({ name, license }) => `${name} (${license ?? "no license stated"})`);
  $("experts").textContent = `Experts: ${named.join(", ")}.`;
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
  $("file").multiple = deciding();
}

async function checkService() {
  const response = await request("v1/experts", { headers: headers() });
  if (response.ok) return describe(await response.json());
  if (response.status !== 401) throw new Error(await detailOf(response));
  $("key").closest("details").open = true;
  setStatus($("key").value ? await detailOf(response) : "This service requires an API key: enter it under Options.", true);
}

const showError = (error) => setStatus(error.message, true);

for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    running?.abort();
    setMode();
    setStatus("");
    $("result").hidden = true;
  });
}
$("file").addEventListener("change", () => {
  send([...$("file").files]);
  $("file").value = "";
});
for (const type of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") send(event.dataTransfer?.files ?? []);
  });
}
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
document.addEventListener("paste", (event) => send(event.clipboardData?.files ?? []));
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    try {
      const response = await request(`page/examples/${button.dataset.example}`);
      send([await response.blob()]);
    } catch (error) {
      showError(error);
    }
  });
}
$("open").addEventListener("click", async () => {
  setStatus("");
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
    const files = await takePictures(count, (number) => setStatus(`Picture ${number} of ${count} …`));
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
$("key").addEventListener("change", () => { setStatus(""); checkService().catch(showError); });
checkService().catch(showError);
