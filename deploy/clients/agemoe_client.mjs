// A client of the AgeMoE service in one file: copy it. It needs a browser or Node 20, and nothing else.
//
//     const client = new AgeMoEClient("https://ages.example", { key });
//     const { images } = await client.ages(fileInput.files, { threshold: 18 });
//
// A page of another origin needs `serve --allowed-origins`. A key in a page is readable by its visitors.

/**
 * A picture: JPEG, PNG or WebP. A File of an <input> is a Blob.
 * @typedef {Blob | ArrayBuffer | Uint8Array<ArrayBuffer>} Picture
 */

/**
 * x, y, width and height in pixels of the upright picture.
 * @typedef {[number, number, number, number]} Box
 */

/**
 * The lists have one entry for each picture.
 * @typedef {object} Options
 * @property {(Box[] | null)[]} [boxes] of the faces; null: they are detected
 * @property {(([number, number][] | null)[] | null)[]} [landmarks] five points for each box
 * @property {(Box[] | null)[]} [person_boxes]
 * @property {number} [deadline_ms]
 * @property {string} [request_id] id of the request in the service's log; the service makes one otherwise
 */

/**
 * @typedef {object} AgesOnly
 * @property {boolean} [detect] false: a picture without boxes is one face
 * @property {number} [threshold] adds the probability of being at least this many years old
 */

/** @typedef {{ type: string, title: string, status: number, detail: string }} Problem */

/**
 * @typedef {object} Estimate
 * @property {number} age_years
 * @property {number | null} low_years null without calibration
 * @property {number | null} high_years
 * @property {{ threshold: number, probability: number, low: number, high: number }} [at_least]
 */

/** @typedef {{ box: Box | null, estimate: Estimate | null, problem: Problem | null }} Face */

/** @typedef {{ width: number | null, height: number | null, faces: Face[], problem: Problem | null }} Image */

/** @typedef {{ images: Image[], version: string, stand_ins: Record<string, string> }} Ages */

/**
 * @typedef {object} Decision
 * @property {{ outcome: "pass" | "refer" | "fail", reasons: { code: string, sentence: string }[] }} decision
 * @property {Estimate | null} estimate
 * @property {Image[]} images
 * @property {string} version
 */

/** @typedef {{ status: string, version: string }} Health */

/** The service, or a proxy before it, answered with an error. */
export class ProblemError extends Error {
  /**
   * @param {Partial<Problem>} problem problem details (RFC 9457), or the beginning of another answer
   * @param {Response} response
   */
  constructor(problem, response) {
    const title = problem.title ?? response.statusText;
    super(`${response.status} ${title}: ${problem.detail ?? ""}`);
    this.name = "ProblemError";
    this.status = response.status;
    this.type = problem.type ?? "about:blank";
    this.title = title;
    this.detail = problem.detail ?? "";
    /** Of the request in the service's log. */
    this.requestId = response.headers.get("X-Request-ID");
  }
}

/** A client; it holds no connection of its own. */
export class AgeMoEClient {
  #base;
  /** @type {Record<string, string>} */
  #headers;
  #timeout;
  #retries;
  #mostPause;

  /**
   * @param {string} [base] address of the service, without a path
   * @param {object} [settings]
   * @param {string} [settings.key] API key
   * @param {number} [settings.timeoutSeconds] limit on each try
   * @param {number} [settings.retries] times that a busy service (503, or 429 of a proxy) is asked
   *   again, where it says when (Retry-After)
   * @param {number} [settings.mostPauseSeconds] a longer Retry-After is an error at once
   */
  constructor(base = "http://127.0.0.1:8000", settings = {}) {
    const { key, timeoutSeconds = 60, retries = 3, mostPauseSeconds = 10 } = settings;
    this.#base = base.replace(/\/$/, "");
    this.#headers = {};
    if (key) this.#headers.Authorization = `Bearer ${key.trim()}`; // files end with a line end
    this.#timeout = timeoutSeconds * 1000;
    this.#retries = retries;
    this.#mostPause = mostPauseSeconds;
  }

  /**
   * Estimates the age of every face; throws ProblemError.
   * @param {Picture | Iterable<Picture>} pictures
   * @param {Options & AgesOnly} [options]
   * @returns {Promise<Ages>}
   */
  ages(pictures, options) {
    return this.#send("/v1/ages", pictures, options);
  }

  /**
   * Decides whether the one person in all pictures is old enough; throws ProblemError.
   * @param {Picture | Iterable<Picture>} pictures
   * @param {Options} [options]
   * @returns {Promise<Decision>}
   */
  decision(pictures, options) {
    return this.#send("/v1/decisions", pictures, options);
  }

  /**
   * Returns the state of a ready service; throws ProblemError at once if it is not.
   * @returns {Promise<Health>}
   */
  async health() {
    return answer(await this.#fetch("/health/ready", {}));
  }

  /**
   * @param {string} path
   * @param {Picture | Iterable<Picture>} pictures
   * @param {Options & AgesOnly} [options]
   * @returns {Promise<any>}
   */
  async #send(path, pictures, { request_id, ...fields } = {}) {
    const init = { method: "POST", body: form(pictures, fields), headers: request_id ? { "X-Request-ID": request_id } : {} };
    for (let tries = 1; ; tries += 1) {
      const response = await this.#fetch(path, init);
      const after = response.headers.get("Retry-After") ?? "";
      const busy = [429, 503].includes(response.status) && /^[0-9]+$/.test(after);
      if (!busy || tries > this.#retries || Number(after) > this.#mostPause) return answer(response);
      await response.body?.cancel();
      await new Promise((resolve) => setTimeout(resolve, Number(after) * 1000));
    }
  }

  /** @param {string} path @param {{ method?: string, body?: FormData, headers?: Record<string, string> }} init */
  #fetch(path, init) {
    const signal = AbortSignal.timeout(this.#timeout);
    return fetch(this.#base + path, { ...init, headers: { ...this.#headers, ...init.headers }, signal });
  }
}

/**
 * Returns a form; names of files are not sent.
 * @param {Picture | Iterable<Picture>} pictures
 * @param {Options & AgesOnly} fields
 */
function form(pictures, fields) {
  if (typeof pictures === "string") throw new TypeError("A picture is a Blob or its bytes, not a path: read the file.");
  const made = new FormData();
  const one = pictures instanceof Blob || pictures instanceof ArrayBuffer || pictures instanceof Uint8Array;
  for (const picture of one ? [pictures] : pictures) {
    made.append("image", picture instanceof Blob ? picture : new Blob([picture]), "image");
  }
  for (const [name, value] of Object.entries(fields)) {
    if (value != null) made.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  return made;
}

/** @param {Response} response @returns {Promise<any>} */
async function answer(response) {
  const text = await response.text();
  /** @type {any} */
  let found = null;
  try {
    found = JSON.parse(text);
    if (response.ok) return found;
  } catch { /* a proxy sent something else */ }
  throw new ProblemError(found ?? { detail: text.slice(0, 200) }, response);
}
