// The boxes, landmarks and labels over a photograph, drawn anew when its size on the page changes.

import { $, svg, years } from "./dom.js";

const LABEL = 34;
const WIDE_ENOUGH = 64;
const NUMBER = 11;

let shown = null;

new ResizeObserver(() => shown && draw(shown)).observe($("picture"));

// The faces in reading order: rows from top to bottom, each from left to right. Faces are in one
// row if they share a third of the height of the smaller.
export function inReadingOrder(faces) {
  const rows = [];
  for (const face of faces.filter(({ box }) => box).sort((a, b) => a.box[1] - b.box[1])) {
    const [, y, , height] = face.box;
    const row = rows.find(([{ box: [, top, , above] }]) => top + above - y > Math.min(height, above) / 3);
    if (row) row.push(face);
    else rows.push([face]);
  }
  const ordered = rows.flatMap((row) => row.sort((a, b) => a.box[0] - b.box[0]));
  return [...ordered, ...faces.filter(({ box }) => !box)];
}

// Draws the boxes of faces, numbered in their order, over a picture of this size.
export function drawBoxes({ width, height }, faces) {
  shown = { width, height, faces };
  draw(shown);
}

export function clearBoxes() {
  shown = null;
  $("boxes").replaceChildren();
}

function draw({ width, height, faces }) {
  const scale = width / ($("picture").clientWidth || width); // pixels of the picture for one of the page
  const area = { width, height, scale };
  $("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("boxes").replaceChildren(...faces.filter(({ box }) => box).map((face, index) => marks(face, index + 1, faces.length > 1, area)));
}

function marks({ box, landmarks, estimate }, number, several, area) {
  const { scale } = area;
  const [x, y, width, height] = box;
  const group = svg("g", {}, svg("rect", { x, y, width, height, rx: 4 * scale }));
  for (const [cx, cy] of landmarks ?? []) group.append(svg("circle", { class: "landmark", cx, cy, r: 2 * scale }));
  if (!several || width / scale >= WIDE_ENOUGH) group.append(...label(box, estimate, several, area));
  if (several) {
    const [cx, cy] = [inside(x, NUMBER, area.width, scale), inside(y, NUMBER, area.height, scale)];
    group.append(svg("circle", { class: "badge", cx, cy, r: NUMBER * scale }), text(cx, cy + 4.6 * scale, 13 * scale, number));
  }
  return group;
}

// The age and its interval: above the box, or where there is room; beside the number if there is one.
function label([x, y, width, height], estimate, several, { scale, ...size }) {
  const room = LABEL * scale;
  const below = y + height;
  const top = y >= room ? y - room : below + room <= size.height ? below : y;
  const anchor = several ? "start" : "middle";
  const at = several ? inside(x, NUMBER, size.width, scale) + (NUMBER + 3) * scale : inside(x + width / 2, 32, size.width, scale);
  if (!estimate) return [text(at, top + 18 * scale, 17 * scale, "?", anchor)];
  const lines = [text(at, top + 16 * scale, 17 * scale, years(estimate.age_years), anchor)];
  if (estimate.low_years !== null) {
    lines.push(text(at, top + 29 * scale, 12 * scale, `${estimate.low_years.toFixed(0)} … ${estimate.high_years.toFixed(0)}`, anchor));
  }
  return lines;
}

const inside = (value, margin, most, scale) => Math.max(Math.min(value, most - margin * scale), margin * scale);

function text(x, y, size, content, anchor = "middle") {
  return svg("text", { x, y, "font-size": size, "stroke-width": size / 5, "text-anchor": anchor }, content);
}
