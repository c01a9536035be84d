// @ts-check
/** Pictures for a model that sees: made small enough in the browser, as data URLs. */

const LONGEST_PX = 1344; // what models with eyes are shown at most
const QUALITY = 0.85;

/** Raises where the browser cannot read it. @param {File} file @returns {Promise<string>} */
export async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL(file.type === "image/png" ? "image/png" : "image/jpeg", QUALITY);
}
