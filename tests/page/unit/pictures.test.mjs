import assert from "node:assert/strict";
import { test } from "node:test";
import {
  allStored,
  dropPictures,
  hold,
  pictureOf,
  picturesUnkept,
  readPictures,
  sweepPictures,
} from "../../../swarm/gateway/page/static/js/pictures.js";

const DOT = "data:image/png;base64,AA==";

test("a browser that keeps no pictures has them in the tab, and says so", async () => {
  assert.equal(globalThis.indexedDB, undefined);
  const [one, other] = [hold(DOT), hold(DOT)];
  assert.match(one, /^picture:/);
  assert.notEqual(one, other);
  assert.equal(pictureOf(one), DOT, "it is shown at once");
  assert.equal(await allStored(), false, "what an earlier version kept stays where it is");
  assert.equal(picturesUnkept.value, true);
  const urlOf = await readPictures([one, "picture:1-gone"]);
  assert.equal(urlOf(one), DOT);
  assert.equal(urlOf("picture:1-gone"), null);
  await sweepPictures(new Set());
  assert.equal(pictureOf(one), DOT);
  await dropPictures([one]);
  assert.deepEqual([pictureOf(one), pictureOf(other)], [undefined, DOT]);
});

test("what is no picture of this page is none, and nothing is fetched for it", async () => {
  for (const name of ["http://elsewhere.test/x.png", "data:text/html,x", "javascript:alert(1)", "picture:"]) {
    assert.equal(hold(name), name);
    const urlOf = await readPictures([name]);
    assert.equal(urlOf(name), null);
    assert.equal(pictureOf(name), null);
  }
});
