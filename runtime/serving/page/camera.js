// Pictures from the camera, which runs only between a click and the pictures.

import { $, html } from "./dom.js";
import { Failure } from "./problems.js";

const PAUSE_MS = 350;
const PROBLEMS = {
  NotAllowedError: "The camera was not permitted. Permit it for this page in the browser, or choose photographs instead.",
  NotFoundError: "No camera was found. Choose photographs instead.",
  NotReadableError: "The camera cannot be used: another program may be using it.",
};
const INSECURE = "Browsers offer the camera only to pages over HTTPS or on this machine (localhost). Choose photographs instead.";

const refused = (sentence) => new Failure("camera", { sentence });

let stream = null;

// Opens the camera and shows what it sees.
export async function openCamera() {
  if (!navigator.mediaDevices) throw refused(INSECURE);
  try {
    const opened = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "user", width: { ideal: 1280 } } });
    closeCamera();
    stream = opened;
  } catch (error) {
    throw refused(PROBLEMS[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
  $("video").srcObject = stream;
  $("camera").hidden = false;
  $("open").setAttribute("aria-expanded", "true");
  await $("video").play();
}

// Takes pictures one after the other, tells their number before each, and closes the camera.
export async function takePictures(count, tell) {
  const files = [];
  try {
    for (let index = 0; index < count; index += 1) {
      tell(index + 1);
      if (index > 0) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      if (!stream) return null;
      files.push(await picture());
    }
  } finally {
    closeCamera();
  }
  return files;
}

export function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("video").srcObject = null;
  $("camera").hidden = true;
  $("open").setAttribute("aria-expanded", "false");
}

function picture() {
  const video = $("video");
  const canvas = html("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Failure("camera-failed"))), "image/jpeg", 0.92);
  });
}
