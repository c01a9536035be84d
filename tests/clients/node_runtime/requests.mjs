// Every address that this process asks, through fetch and through node:http, whatever wraps them. Preloaded into a
// program (NODE_OPTIONS=--import=...) with REQUESTS_FILE set it writes them there, one a line, as they are asked.

import { subscribe } from "node:diagnostics_channel";
import { appendFileSync } from "node:fs";

export const requests = [];
const file = process.env.REQUESTS_FILE;

function asked(address) {
  requests.push(address.href);
  if (file) appendFileSync(file, `${address.href}\n`);
}

subscribe("undici:request:create", ({ request }) => asked(new URL(request.path, request.origin)));
subscribe("http.client.request.start", ({ request }) => {
  asked(new URL(request.path, `${request.protocol}//${request.getHeader("host")}`));
});
