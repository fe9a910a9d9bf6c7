// What visitors read when something fails, for each problem of the API.
// A sentence is plain English, names no part of the API, and says what to do.

const AGAIN = "Try again in a moment.";
const RELOAD = "Reload the page and try again.";
const TELL = "Try again. If it happens again, tell the operator of this service.";

// The keys are the ends of the problems' types, after "urn:agemoe:problem:".
const SENTENCES = {
  "bad-gateway": `The service cannot be reached behind its gateway. ${AGAIN}`,
  "body-slow": "The upload took too long. Try again over a faster connection, or choose a smaller picture.",
  "body-too-large": tooLarge,
  "box": "The face lies at the edge of the picture. Choose a picture that shows all of it.",
  "boxes-too-large": "The faces of this picture are too large together. Choose a picture of fewer people.",
  "busy": `The service is busy. ${AGAIN}`,
  "client-gone": `The connection was interrupted. ${AGAIN}`,
  "deadline": `The estimate took too long. ${AGAIN}`,
  "engines": `The service has a fault. ${TELL}`,
  "forbidden": "This key does not permit it. Enter another one under Options.",
  "host": "This service is not meant to be reached at this address. Ask its operator for the right one.",
  "image": "This file cannot be read as a picture. Choose a JPEG, PNG or WebP picture.",
  "image-too-large": tooLarge,
  "input": "This picture cannot be used. Choose another one.",
  "invalid": `The service does not accept what the page sent. Check the entries under Options. ${RELOAD}`,
  "landmarks": "Eyes, nose and mouth were not found in the face. Choose a picture that shows it from the front.",
  "liveness": "This does not look like a picture of a live person. Take a new one with the camera, in good light.",
  "malformed": `The service could not read what the page sent. ${RELOAD}`,
  "media-type": `The service could not read what the page sent. ${RELOAD}`,
  "method-not-allowed": `The service does not offer this. ${RELOAD}`,
  "no-face": "No face was found. Choose a picture that shows the whole face.",
  "no-policy": `This service makes no decisions at present. ${RELOAD}`,
  "not-calibrated": "This service cannot tell the probability of an age. Clear the age under Options.",
  "not-found": `The service does not offer this. ${RELOAD}`,
  "not-ready": `The service is starting or stopping. ${AGAIN}`,
  "not-recorded": `The decision could not be recorded, so it is not given. ${AGAIN}`,
  "prediction": `No age could be estimated. ${TELL}`,
  "quality": "The face cannot be judged in this picture. Choose a sharp, well lit one that shows the whole face from the front.",
  "queue-full": `The service is busy. ${AGAIN}`,
  "reload": `The service could not load its new engines. ${TELL}`,
  "service": `The service has a fault. ${TELL}`,
  "several-faces": "Several faces were found. Choose a picture of one person alone.",
  "too-many": ({ limits }) => limits
    ? `There are too many pictures or faces. At most ${limits.images} pictures and ${limits.faces} faces are possible at once.`
    : "There are too many pictures or faces. Choose fewer.",
  "unauthorized": ({ key }) => key
    ? "This key is not accepted. Check it under Options."
    : "This service asks for a key. Enter it under Options.",
  "unexpected": `The service has a fault. ${TELL}`,
  // Of this page.
  "camera-failed": "The camera gave no picture. Close other programs that use it, or choose photographs instead.",
  "no-file": "That is no file. Save the picture first, then choose or drop the file.",
  "no-number": "The age under Options must be a number from 0 to 150.",
  "unreachable": `The service cannot be reached. Check your connection. ${AGAIN}`,
};

// Statuses without a problem of the API: gateways in front of the service send them.
const STATUSES = {
  401: "unauthorized", 403: "forbidden", 404: "not-found", 408: "body-slow", 413: "body-too-large",
  429: "busy", 502: "bad-gateway", 503: "busy", 504: "deadline",
};

// The same request may succeed later.
const TEMPORARY = new Set([
  "bad-gateway", "body-slow", "busy", "client-gone", "deadline", "engines", "not-ready", "not-recorded",
  "prediction", "queue-full", "service", "unauthorized", "unexpected", "unreachable",
]);

// A failure that the page shows; `slug` names it.
export class Failure extends Error {
  constructor(slug, { sentence = sentenceOf(slug), reference = null } = {}) {
    super(sentence);
    this.temporary = TEMPORARY.has(slug);
    this.reference = reference;
    this.slug = slug;
  }
}

// The sentence for a problem. The context has the limits of the service, the bytes that were sent and whether there is a key.
export function sentenceOf(slug, context = {}, status = 500) {
  const sentence = Object.hasOwn(SENTENCES, slug) ? SENTENCES[slug]
    : status < 500 ? "The service does not accept this picture. Choose another one." : SENTENCES.unexpected;
  return typeof sentence === "function" ? sentence(context) : sentence;
}

export const slugOf = ({ type }) => String(type ?? "").split(":").pop();

// Returns the failure in a response. Its details, for programmers, go to the console only.
export async function failureOf(response, context) {
  const { status } = response;
  let slug = "";
  try {
    const problem = await response.json();
    slug = slugOf(problem);
    if (problem.detail) console.info(problem.detail);
  } catch { /* a gateway in front of the service sends no JSON */ }
  if (!Object.hasOwn(SENTENCES, slug)) slug = STATUSES[status] ?? (status < 500 ? slug : "unexpected");
  const reference = status >= 500 ? response.headers.get("X-Request-ID") : null;
  return new Failure(slug, { sentence: sentenceOf(slug, context, status), reference });
}

// Raises a failure where the service would refuse the files because of their size or number.
export function checkFiles(files, limits) {
  if (!limits) return;
  const sizes = files.map((file) => file.size);
  if (files.length > limits.images) throw new Failure("too-many", { sentence: `Choose at most ${limits.images} pictures.` });
  if (Math.max(...sizes) > limits.image_bytes) throw new Failure("image-too-large", { sentence: tooLarge({ limits, sizes }) });
  if (sum(sizes) > limits.body_bytes) throw new Failure("body-too-large", { sentence: tooLarge({ limits, sizes }) });
}

function tooLarge({ limits, sizes = [] }) {
  if (!limits) return "This picture is too large. Choose a smaller one.";
  const most = megabytes(Math.min(limits.image_bytes, limits.body_bytes));
  if (Math.max(...sizes) > limits.image_bytes) return `${sizes.length > 1 ? "A" : "This"} picture is too large. Choose one under ${most}.`;
  if (sizes.length > 1) return `These pictures are too large together. Choose fewer, or smaller ones: ${megabytes(limits.body_bytes)} at most.`;
  return `This picture is too large. Choose one under ${most} with fewer than ${millions(limits.pixels)} million pixels.`;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const short = (value) => (value < 10 ? Number(value.toFixed(1)) : Math.floor(value));
const megabytes = (bytes) => (bytes < 2 ** 20 ? `${Math.floor(bytes / 1024)} kB` : `${short(bytes / 2 ** 20)} MB`);
const millions = (pixels) => short(pixels / 1e6);
