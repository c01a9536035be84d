// @ts-check
/** A QR code as a drawing. Pure. */

/** The path of its dark squares, one unit each. @param {string[]} rows of 0 and 1 */
export function qrPath(rows) {
  return rows
    .flatMap((row, y) => [...row.matchAll(/1+/g)].map((run) => `M${run.index} ${y}h${run[0].length}v1h-${run[0].length}z`))
    .join("");
}
