// Elements, numbers and the photographs' object URLs.

const SVG = "http://www.w3.org/2000/svg";
export const $ = (id) => document.getElementById(id);

let urls = [];

export function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const years = (value) => value.toFixed(1);
export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
export const percent = (value) => `${Math.round(value * 100)} %`;

// Where the tables state no probability, the answer holds bounds of it.
export function probability(nearest, low, high) {
  if (low === high) return percent(nearest);
  return `${low === 0 ? "≤" : "≥"} ${(100 * nearest).toFixed(1)} %`;
}

// The interval of an estimate, in a sentence.
export function interval({ low_years: low, high_years: high, interval_level: level }) {
  if (low === null) return html("p", { className: "quiet", textContent: "Not calibrated: no interval available." });
  const range = html("span", { textContent: `${years(low)} … ${years(high)}` });
  return html("p", { className: "quiet" }, `${percent(level)} interval: `, range);
}

// Replaces the photographs on the page; the ones before are freed.
export function showing(files) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = files.map((file) => URL.createObjectURL(file));
  return urls;
}

// The face with a margin, cropped from the photograph in the page.
export function crop(box, { width, height }, url) {
  const [x, y, w, h] = box ?? [0, 0, width, height];
  const margin = box ? Math.max(w, h) / 5 : 0;
  const view = [x - margin, y - margin, w + 2 * margin, h + 2 * margin].join(" ");
  return svg("svg", { class: "crop", viewBox: view, preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" },
    svg("image", { href: url, width, height }));
}
