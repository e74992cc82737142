// Runs zpush.js for a test: options as JSON in argv, what the client tells as JSON lines on stdout; ends when it stops.
// A line on stdin: "done" fulfils what onMessage promised, "token:…" answers the callback that "waits", "ack" acknowledges
// the last message, "listeners" asks how many wait for an abort, else the client closes.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { HttpEventSource } from "./event_source.mjs";

// As a browser reads it, a module; by its name alone, older Node takes it for something else.
const source = readFileSync(new URL("../../zpush/web/zpush.js", import.meta.url)).toString("base64");
const { CLOSE_CODES, Client } = await import(`data:text/javascript;base64,${source}`);

const WS = "/usr/share/nodejs/ws/wrapper.mjs"; // Debian's node-ws, for Node without a WebSocket of its own
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const listeners = new Set();
const { addEventListener, removeEventListener } = AbortSignal.prototype;
AbortSignal.prototype.addEventListener = function (name, listener, ...rest) {
  listeners.add(listener);
  return addEventListener.call(this, name, listener, ...rest);
};
AbortSignal.prototype.removeEventListener = function (name, listener) {
  listeners.delete(listener);
  return removeEventListener.call(this, name, listener);
};

if (process.argv[2] === "table") {
  say(CLOSE_CODES);
  process.exit(0);
}

const { url, random = 0, tokens, throwing, promising, secure, ...rest } = JSON.parse(process.argv[2]);
let last;
let fulfil;
let answer;
const done = new Promise((resolve) => (fulfil = resolve));
const options = {
  ...rest,
  random: () => random,
  WebSocket: globalThis.WebSocket ?? (await import(WS)).WebSocket,
  EventSource: HttpEventSource,
  onState: (state, info) => say({ state, ...info }),
  onMessage: (message) => {
    const { id, data, text, bytes } = (last = message);
    say({ id, data: data instanceof Uint8Array ? { bytes: [...data] } : data, text, size: bytes.length });
    if (throwing) throw new Error("a bug of the page's");
    return promising ? done : undefined;
  },
};
if (secure) options.onSecureToken = (token) => say({ secure: token });
if (tokens !== undefined) {
  options.token = async () => {
    const token = tokens.shift();
    say({ asked: token ?? null });
    if (token === "fails") throw new TypeError("Failed to fetch");
    if (token === "waits") return new Promise((resolve) => (answer = resolve));
    if (token === "hangs") return new Promise(() => {});
    return token ?? null;
  };
}

let client;
try {
  client = new Client(url, options);
} catch (error) {
  say({ thrown: error.name, message: error.message });
  process.exit(0);
}
createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "done") fulfil();
  else if (line.startsWith("token:")) answer(line.slice(6));
  else if (line === "ack") client.ack(last);
  else if (line === "listeners") say({ listeners: listeners.size });
  else client.close();
});
const stopped = await client.stopped;
say({ stopped: stopped?.name ?? null, code: stopped?.code ?? 0 });
process.exit(0);
