// The decision about one person, from one or several pictures.

import { $, crop, html, interval, percent, probability, svg, years } from "./dom.js";
import { predictions } from "./faces.js";
import { sentenceOf, slugOf } from "./problems.js";

const OUTCOMES = {
  pass: ["Pass", "Old enough.", "M5 12.5 10 17.5 19.5 7", "3 4 18 16"],
  refer: ["Refer", "Ask for another proof of age.", "M8.5 9a3.5 3.5 0 1 1 5 3.2c-1 .5-1.5 1.2-1.5 2.3M12 18.4v.1", "7 4 10 16"],
  fail: ["Fail", "Too young.", "M6.5 6.5l11 11M17.5 6.5l-11 11", "5 4 14 16"],
};

// Reasons whose sentences are for programmers, in words for visitors.
const REASONS = {
  late: "The estimate took too long. Try again in a moment.",
  no_face: sentenceOf("no-face"),
  not_live: sentenceOf("liveness"),
  several_faces: sentenceOf("several-faces"),
  unreadable: "This picture cannot be used. Choose a JPEG, PNG or WebP picture that is not too large.",
};

// Shows the answer to a request for a decision; returns a sentence about it and whether it is a hint.
export async function showDecision(urls, answer) {
  const { decision, estimate, images } = answer;
  const [name, meaning, path, viewBox] = OUTCOMES[decision.outcome];
  $("heading").textContent = `Decision: ${decision.outcome}`;
  $("verdict").className = decision.outcome;
  $("verdict").hidden = false;
  $("outcome").replaceChildren(svg("svg", { viewBox, "aria-hidden": "true" }, svg("path", { d: path })), name);
  $("meaning").textContent = meaning;
  $("reasons").replaceChildren(...decision.reasons.map((reason) => html("li", { textContent: reasonText(reason) })));
  $("age").replaceChildren(...age(decision, estimate));
  $("pictures").replaceChildren(...images.map((image, index) => picture(image, index, answer, urls[index])));
  $("made").hidden = !estimate;
  $("fused").replaceChildren(...(estimate ? predictions(estimate, answer.experts_ms) : []));
  const used = images.filter(({ weight }) => weight > 0).length;
  return [`${used} of ${images.length} ${images.length === 1 ? "picture" : "pictures"} used.`, false];
}

// The pictures that a decision is being made from.
export function previewPictures(urls) {
  $("pictures").replaceChildren(...urls.map((url, index) => html("li", {},
    html("img", { className: "crop", src: url, alt: "" }), html("h3", { textContent: `Picture ${index + 1}` }))));
}

// What a policy asks for, in a sentence.
export function policyText({ id, threshold, challenge, floor, max_false_positive: limit, confidence, claimed }) {
  const fails = floor === null ? "Everyone else is referred." : `Below ${floor} years, a person fails. Everyone else is referred.`;
  const claim = claimed ? ` Measured: at most ${(100 * limit).toFixed(1)} % of younger people pass, with ${percent(confidence)} confidence.` : "";
  return `Required age ${threshold}. A person who is estimated ${challenge} or older passes. ${fails}${claim} Policy ${id}.`;
}

// A reason that does not hold for all pictures begins with their numbers.
function reasonText({ code, sentence }) {
  if (!Object.hasOwn(REASONS, code)) return sentence;
  return (/^Pictures? [\d, ]+: /.exec(sentence)?.[0] ?? "") + REASONS[code];
}

function age(decision, estimate) {
  if (!estimate) return [];
  const lines = [html("p", {}, html("b", { textContent: years(estimate.age_years) }), " years"), interval(estimate)];
  if (decision.probability !== null) {
    const chance = probability(decision.probability, ...decision.probability_bounds);
    lines.push(html("p", { className: "quiet", textContent: `At least ${decision.threshold} years old: ${chance}` }));
  }
  return lines;
}

function picture(image, index, { images }, url) {
  const [face] = image.faces;
  const problem = image.problem ?? face?.problem;
  const shape = image.width ? [face?.box ?? null, image, url] : null;
  const title = html("h3", { textContent: `Picture ${index + 1}` });
  const text = html("div", {}, title);
  if (face?.estimate) {
    title.append(": ", html("b", { textContent: years(face.estimate.age_years) }), " years");
    text.append(interval(face.estimate));
  }
  const note = problem ? `Not used. ${sentenceOf(slugOf(problem))}`
    : image.left_out ? `Left out: ${image.left_out}.`
    : images.length > 1 ? `Weight ${percent(image.weight)}` : "";
  if (note) text.append(html("p", { className: "quiet", textContent: note }));
  return html("li", { className: image.weight > 0 ? "" : "unused" }, shape ? crop(...shape) : html("div", { className: "crop" }), text);
}
