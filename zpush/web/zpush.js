// The reconnecting client for browsers (and whatever has WebSocket or EventSource): one client id, reachable for as
// long as the page likes. One file, no dependency. Types: zpush.d.ts. The rules are those of zpush.Client in Python,
// where they are explained; here is what differs:
//
// - A browser does not tell why an opening handshake failed: 401 looks like a cut line. So every failed attempt is
//   followed by one with a new token (where there is a callback to ask), after a backoff.
// - A browser's WebSocket drops what arrives after close() was called. So the old connection of a hand-over is left to
//   the server, which closes it as replaced (4002).
// - A browser cannot stop reading: nothing bounds what would wait for onMessage, so it is not awaited.
// - Pings are invisible here. In zpush.v1 the client sends {"ping":…} after some silence; otherwise only the system
//   finds a dead line.
//
// A token travels as a subprotocol (WebSocket), or as ?token= (EventSource; auth.query_token must allow it, a cookie is
// better).

/** What the client does after a close code; after any other, "backoff". The same table as zpush/protocol/close.py. */
export const CLOSE_CODES = Object.freeze({
  1000: "after_delay",
  1001: "backoff",
  1002: "long_backoff",
  1003: "long_backoff",
  1007: "long_backoff",
  1008: "token_first",
  1009: "long_backoff",
  1011: "backoff",
  1013: "long_backoff",
  4001: "token_first",
  4002: "never",
  4004: "backoff",
  4005: "never",
  4006: "token_first",
  4008: "long_backoff",
});

const REPLACED = 4002;
const CUT = 1006;
const PROTOCOL_ERROR = 1002;
const OPEN = 1; // readyState
const V1 = "zpush.v1";
const RAW_GO_AWAY = "_CLOSE_";
const TOKEN_ENDS = "token_expires"; // reasons of a go-away
const TOKEN_STAYS_GOOD = ["max_age", "shutdown"];

const BACKOFF_MS = { backoff: [500, 30_000], long_backoff: [10_000, 300_000] }; // first bound, last bound
const MOST_DELAY_MS = 30_000; // of a go-away
const STABLE_MS = 10_000; // a connection that lived this long was a good one
const HASTY_MS = 1_000; // one that was asked to go within this time was none
const GO_AWAY_SPREAD_MS = 2_000; // where a go-away names no delay
const PONG_MS = 10_000;
const RENEW_MS = 1_000; // for the server's word on a newer token
const REMEMBERED = 1_000; // ids by which doubles are found

/** The client does not come back by itself. code: the close code that says so; 0 where none does. */
export class Stopped extends Error {
  constructor(code, reason) {
    super(reason);
    this.name = "Stopped";
    this.code = code;
  }
}

/** One message. id: "" where the transport has none. data: JSON value, text, or Uint8Array for a binary payload. */
export class Message {
  constructor(id, data) {
    this.id = id;
    this.data = data;
  }

  /** Text, or the JSON value's text; a binary payload read as UTF-8. */
  get text() {
    if (typeof this.data === "string") return this.data;
    return this.data instanceof Uint8Array ? new TextDecoder().decode(this.data) : JSON.stringify(this.data);
  }

  /** The payload of a binary message; of any other, its text in UTF-8. */
  get bytes() {
    return this.data instanceof Uint8Array ? this.data : new TextEncoder().encode(this.text);
  }

  /** The JSON value, whichever transport brought it. Throws SyntaxError where the payload is no JSON. */
  json() {
    return typeof this.data === "string" || this.data instanceof Uint8Array ? JSON.parse(this.text) : this.data;
  }
}

class Queue {
  #items = [];
  #wake = null;

  put(item) {
    this.#items.push(item);
    this.#wake?.();
  }

  async take() {
    while (this.#items.length === 0) await new Promise((resolve) => (this.#wake = resolve));
    return this.#items.shift();
  }
}

/** One connection's events, whose kind is "message", "secure_token", "go_away", "renewed", or at last "ended". */
class Connection extends Queue {
  ended = false;
  onRenewed = () => {};
  opened = new Promise((resolve) => (this.settle = resolve)); // false where it ended before it was open

  tell(event) {
    if (this.ended) return;
    this.ended = event.kind === "ended";
    if (this.ended) this.settle(false);
    this.put(event);
  }

  tellMessage(id, data) {
    this.tell({ kind: "message", message: new Message(id, data) });
  }

  end(code, reason) {
    this.tell({ kind: "ended", code, reason });
  }

  ack() {} // only zpush.v1 can

  show() {} // a newer token; likewise
}

class SocketConnection extends Connection {
  #socket;
  #v1;
  #pingMs;
  #timer = null;
  #awaitsSecureToken; // a raw connection, whose first text it is

  constructor(Socket, url, token, { protocol, pingMs, onSecureToken }) {
    super();
    this.#v1 = protocol === V1;
    this.#pingMs = this.#v1 ? pingMs : 0;
    this.#awaitsSecureToken = onSecureToken !== undefined;
    const socket = new Socket(url, token === null ? [protocol] : [protocol, `zpush.token.${token}`]);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.settle(true);
      this.#listen();
    };
    socket.onmessage = (event) => this.#onMessage(event.data);
    socket.onclose = ({ code, reason }) => {
      clearTimeout(this.#timer);
      this.end(code, reason || "the connection was closed");
    };
    socket.onerror = () => {
      if (socket.readyState !== OPEN) this.end(CUT, "no connection");
    };
    this.#socket = socket;
  }

  ack(id) {
    if (id && this.#v1) this.#send({ ack: id });
  }

  show(token) {
    if (this.#v1) this.#send({ auth: token });
  }

  close() {
    clearTimeout(this.#timer);
    this.end(CUT, "closed here");
    if (this.#socket.readyState <= OPEN) this.#socket.close(1000);
  }

  #send(message) {
    if (this.#socket.readyState === OPEN) this.#socket.send(JSON.stringify(message));
  }

  #listen() {
    clearTimeout(this.#timer);
    if (this.#pingMs) this.#timer = setTimeout(() => this.#ask(), this.#pingMs);
  }

  #ask() {
    this.#send({ ping: Date.now() });
    this.#timer = setTimeout(() => {
      this.end(CUT, "the server is silent");
      this.#socket.close();
    }, PONG_MS);
  }

  #onMessage(data) {
    this.#listen();
    if (this.#v1) this.#onV1(data);
    else if (data === RAW_GO_AWAY) this.tell({ kind: "go_away", reason: "", delayMs: null });
    else this.#onRaw(data);
  }

  #onRaw(data) {
    const token = this.#awaitsSecureToken ? /^\{"secure_token":"([\w-]+)"\}$/.exec(data)?.[1] : undefined;
    this.#awaitsSecureToken = false;
    if (token !== undefined) this.tell({ kind: "secure_token", token });
    else this.tellMessage("", typeof data === "string" ? data : new Uint8Array(data));
  }

  #onV1(text) {
    try {
      const event = readV1(text);
      if (event !== null) this.tell(event);
    } catch (error) {
      this.end(PROTOCOL_ERROR, `not ${V1}: ${error.message}`);
      this.#socket.close(3000, "not zpush.v1"); // a page may name 1000 and 3000 to 4999 only
    }
  }
}

function readV1(text) {
  const fields = JSON.parse(text);
  if (fields.go_away !== undefined) {
    const { reason, reconnect_in_ms: delayMs } = fields.go_away;
    if (typeof reason !== "string" || typeof delayMs !== "number") throw new SyntaxError("a go-away without a delay");
    return { kind: "go_away", reason, delayMs: Math.max(0, delayMs) };
  }
  if (typeof fields.secure_token === "string") return { kind: "secure_token", token: fields.secure_token };
  if (fields.authenticated === true) return { kind: "renewed" };
  if (fields.id === undefined) return null; // a pong, or of a kind that later servers may send
  if (typeof fields.id !== "string") throw new SyntaxError("an id that is no string");
  if (fields.data === undefined && typeof fields.base64 !== "string") throw new SyntaxError("neither data nor base64");
  const data = fields.data === undefined ? decodeBase64(fields.base64) : fields.data;
  return { kind: "message", message: new Message(fields.id, data) };
}

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

class StreamConnection extends Connection {
  #source;

  constructor(Source, url) {
    super();
    const source = new Source(url, { withCredentials: true });
    source.onopen = () => this.settle(true);
    source.onerror = () => this.#over(CUT, "the stream was cut"); // it would come back by itself, and at its own pace
    for (const name of ["push", "message"])
      source.addEventListener(name, (event) => this.tellMessage(event.lastEventId, event.data));
    source.addEventListener("binary", (event) => this.#binary(event.lastEventId, event.data));
    source.addEventListener("secure_token", (event) => this.tell({ kind: "secure_token", token: event.data }));
    source.addEventListener("goaway", () => this.tell({ kind: "go_away", reason: "", delayMs: null }));
    source.addEventListener("close", (event) => this.#over(Number(event.data) || CUT, "close event"));
    this.#source = source;
  }

  close() {
    this.#over(CUT, "closed here");
  }

  #over(code, reason) {
    this.#source.close();
    this.end(code, reason);
  }

  #binary(id, data) {
    try {
      this.tellMessage(id, decodeBase64(data));
    } catch {
      this.#over(PROTOCOL_ERROR, "a binary event that is not base64");
    }
  }
}

/** When to come back: full jitter, and nobody comes back at once twice. */
class Pace {
  #random;
  #failures = 0; // in a row

  constructor(random) {
    this.#random = random;
  }

  failed(then, livedMs = 0) {
    if (livedMs >= STABLE_MS) this.#failures = 0;
    const attempt = this.#failures++;
    if (attempt === 0 && !(then in BACKOFF_MS)) return 0;
    const [firstMs, lastMs] = BACKOFF_MS[then] ?? BACKOFF_MS.backoff;
    return this.#random() * Math.min(lastMs, firstMs * 2 ** Math.min(attempt, 60));
  }

  going(delayMs, livedMs) {
    if (livedMs >= STABLE_MS) this.#failures = 0;
    const waitMs = delayMs === null ? this.#random() * GO_AWAY_SPREAD_MS : Math.min(delayMs, MOST_DELAY_MS);
    return livedMs < HASTY_MS ? Math.max(waitMs, this.failed("after_delay")) : waitMs;
  }
}

/** A fixed token, or one that is asked for whenever a new one is needed. */
class Tokens {
  #source;
  #current = null;
  #asking = null; // who needs a token meanwhile waits for the same answer

  constructor(source) {
    this.#source = source ?? null;
    this.renewable = typeof source === "function";
    if (!this.renewable) this.#current = checkToken(this.#source);
  }

  async get() {
    if (this.#current !== null || !this.renewable) return this.#current;
    return (this.#asking ??= this.#ask().finally(() => (this.#asking = null)));
  }

  async #ask() {
    this.#current = checkToken((await this.#source()) ?? null);
    if (this.#current === null) throw new Stopped(0, "there is no token any more");
    return this.#current;
  }

  forget() {
    if (this.renewable) this.#current = null;
  }
}

function checkToken(token) {
  if (token === null || /^[\w!#$%&'*+.^`|~-]+$/.test(token)) return token;
  throw new TypeError("a token is one RFC 9110 token, as JWTs are");
}

const DEFAULTS = {
  transport: "websocket",
  protocol: V1,
  ack: false,
  openMs: 10_000,
  handoverMs: 5_000,
  pingMs: 30_000,
  random: Math.random,
};

/** See zpush.d.ts for the options. */
export class Client {
  #options;
  #url;
  #tokens;
  #pace;
  #state = "connecting";
  #seen = new Map(); // ids, oldest first; whether they were acknowledged
  #current = null; // the connection that is read
  #asked = false; // the next connection's request may have reached the server
  #closing = new AbortController();
  #dialing = null;
  /** Of the connection that is read, where onSecureToken asks for one. */
  secureToken = "";

  constructor(url, options = {}) {
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, EventSource: globalThis.EventSource, ...options };
    const needed = this.#options.transport === "sse" ? "EventSource" : "WebSocket";
    if (typeof this.#options[needed] !== "function") throw new TypeError(`no ${needed} here: give one as an option`);
    this.#url = clientUrl(url, this.#options);
    this.#tokens = new Tokens(this.#options.token);
    this.#pace = new Pace(this.#options.random);
    /** Resolves when the client has stopped: null after close(), else the Stopped that says why. */
    this.stopped = this.#run();
  }

  /** "connecting", "open", "handing_over", "waiting" or "stopped". */
  get state() {
    return this.#state;
  }

  /** Tells the server that this message was dealt with (zpush.v1). */
  ack(message) {
    if (this.#seen.has(message.id)) this.#seen.set(message.id, true);
    this.#current?.ack(message.id);
  }

  /** Closes the connection, for good. */
  close() {
    this.#closing.abort();
    this.#dialing?.abort();
    this.#current?.close();
  }

  // ---- a client's life

  async #run() {
    let stopped = null;
    try {
      let connection = await this.#dial(0);
      for (;;) connection = await this.#live(connection);
    } catch (error) {
      stopped = this.#closing.signal.aborted ? null : error;
    }
    this.close();
    this.#tell("stopped", { reason: stopped?.message ?? "closed", code: stopped?.code ?? 0 });
    return stopped;
  }

  async #live(connection) {
    this.#current = connection;
    this.#asked = false;
    this.#tell("open");
    const since = Date.now();
    const goings = new Queue(); // null at the end
    const pumped = this.#pump(connection, goings);
    for (let going; (going = await goings.take()) !== null; ) {
      const delayMs = this.#pace.going(going.delayMs, Date.now() - since);
      if (!TOKEN_STAYS_GOOD.includes(going.reason)) this.#tokens.forget();
      const renews = going.reason === TOKEN_ENDS && this.#tokens.renewable;
      if (renews && ((await this.#renew(connection, delayMs, pumped)) || connection.ended)) continue;
      return this.#handOver(connection, going.reason, renews ? 0 : delayMs, pumped);
    }
    const end = await pumped;
    this.#current = null;
    connection.close();
    this.#closing.signal.throwIfAborted();
    return this.#dial(this.#waitAfter(end, Date.now() - since), describe(end));
  }

  /** Reads a connection; answers its end. */
  async #pump(connection, goings) {
    for (;;) {
      const event = await connection.take();
      if (event.kind === "message") this.#take(event.message);
      else if (event.kind === "go_away") goings.put(event);
      else if (event.kind === "renewed") connection.onRenewed();
      else if (event.kind === "secure_token") this.#call(this.#options.onSecureToken, (this.secureToken = event.token));
      else {
        goings.put(null);
        return event;
      }
    }
  }

  async #take(message) {
    if (this.#isNew(message.id)) {
      const dealtWith = await this.#call(this.#options.onMessage, message);
      if (this.#options.ack && dealtWith) this.ack(message);
    } else if (this.#seen.get(message.id)) {
      this.ack(message); // the first ack did not arrive, or the server would not have repeated it
    }
  }

  #isNew(id) {
    if (!id) return true;
    if (this.#seen.has(id)) return false;
    this.#seen.set(id, false);
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.keys().next().value);
    return true;
  }

  // ---- from one token, and one connection, to the next

  /** Whether the server has taken a newer token for this connection. */
  #renew(connection, delayMs, pumped) {
    return Promise.race([this.#showNewerToken(connection, delayMs), pumped.then(() => false)]);
  }

  async #showNewerToken(connection, delayMs) {
    const { signal } = this.#closing;
    await sleep(delayMs, signal);
    if (connection.ended) return false; // whoever opens the next one asks
    try {
      connection.show(await this.#tokens.get());
    } catch {
      return false; // the hand-over goes on asking
    }
    const taken = new Promise((resolve) => (connection.onRenewed = () => resolve(true)));
    return Promise.race([taken, sleep(RENEW_MS, signal).then(() => false)]);
  }

  /** The next connection opens while the old one is read; then the old one to its end; then the new one. */
  async #handOver(old, reason, delayMs, pumped) {
    this.#tell("handing_over", { reason, delayMs });
    let next = null;
    const dialed = this.#dial(delayMs).then((connection) => (next = connection));
    const ready = dialed.catch(() => pumped); // refused for good: the old one may still finish
    await Promise.race([pumped, ready]);
    const patience = next === null ? null : setTimeout(() => old.close(), this.#options.handoverMs);
    const end = await pumped;
    clearTimeout(patience);
    old.close();
    try {
      this.#closing.signal.throwIfAborted();
      this.#checkOldEnd(end);
    } catch (error) {
      this.#dialing.abort();
      dialed.then((connection) => connection.close(), () => {}); // it may have opened this very moment
      throw error;
    }
    if (next === null) {
      this.#current = null;
      if (end.code !== REPLACED) // by the new one, whose own answer is on its way
        this.#tell("connecting", { reason: "the old connection has ended before the new one was open" });
    }
    return dialed;
  }

  #checkOldEnd(end) {
    const then = CLOSE_CODES[end.code] ?? "backoff";
    if (then === "never" && !(end.code === REPLACED && this.#asked)) throw stoppedBy(end);
    if (then === "token_first") this.#tokens.forget();
  }

  #waitAfter(end, livedMs) {
    const then = CLOSE_CODES[end.code] ?? "backoff";
    if (then === "never" || (then === "token_first" && !this.#tokens.renewable)) throw stoppedBy(end);
    if (then === "token_first") this.#tokens.forget();
    return this.#pace.failed(then, livedMs);
  }

  /** The next connection, after this wait and as many attempts as it takes. */
  async #dial(waitMs, reason = "") {
    const { signal } = (this.#dialing = new AbortController());
    for (; ; waitMs = this.#pace.failed("backoff")) {
      if (waitMs > 0) {
        this.#tellIfApart("waiting", { reason, delayMs: waitMs });
        await sleep(waitMs, signal);
      }
      signal.throwIfAborted();
      this.#tellIfApart("connecting");
      try {
        const connection = this.#connect(await unlessAborted(this.#tokens.get(), signal));
        if (await this.#isOpen(connection, signal)) return connection;
        ({ reason } = await connection.take());
      } catch (error) {
        if (error instanceof Stopped || signal.aborted) throw error;
        reason = String(error?.message ?? error); // of the token callback: a browser's network errors look like bugs
      }
      this.#tokens.forget();
    }
  }

  #connect(token) {
    this.#asked = true;
    const { transport, WebSocket, EventSource } = this.#options;
    if (transport === "websocket") return new SocketConnection(WebSocket, this.#url, token, this.#options);
    const url = new URL(this.#url);
    if (token !== null) url.searchParams.set("token", token);
    return new StreamConnection(EventSource, url.href);
  }

  async #isOpen(connection, signal) {
    const timer = setTimeout(() => connection.close(), this.#options.openMs);
    try {
      return await unlessAborted(connection.opened, signal);
    } finally {
      clearTimeout(timer);
      if (signal.aborted) connection.close();
    }
  }

  // ---- callbacks

  #tellIfApart(state, info) {
    if (this.#current === null) this.#tell(state, info); // while an old one is read, an attempt is no change
  }

  #tell(state, info = {}) {
    this.#state = state;
    this.#call(this.#options.onState, state, { reason: "", ...info });
  }

  /** Whether it did what it was called for. What it throws is reported as of any event listener, and ends nothing. */
  async #call(callback, ...values) {
    try {
      await callback?.(...values);
      return true;
    } catch (error) {
      if (typeof reportError === "function") reportError(error);
      else console.error(error);
      return false;
    }
  }
}

/** Throws where the signal aborts. */
function sleep(delayMs, signal) {
  let timer;
  const over = new Promise((resolve) => (timer = setTimeout(resolve, delayMs)));
  return unlessAborted(over, signal).finally(() => clearTimeout(timer));
}

/** What the promise says; throws, and earlier, where the signal aborts. Nothing of it stays with the signal. */
function unlessAborted(promise, signal) {
  let abort;
  const aborted = new Promise((_, reject) => (abort = () => reject(signal.reason)));
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  return Promise.race([promise, aborted]).finally(() => signal.removeEventListener("abort", abort));
}

function clientUrl(url, { transport, clientId, onSecureToken }) {
  const whole = new URL(url, globalThis.location?.href);
  const secure = whole.protocol === "https:" || whole.protocol === "wss:";
  if (!/^(http|ws)s?:$/.test(whole.protocol)) throw new TypeError(`not a client's URL: ${url}`);
  whole.protocol = transport === "sse" ? (secure ? "https:" : "http:") : secure ? "wss:" : "ws:";
  whole.hash = "";
  if (whole.pathname === "/") whole.pathname = transport === "sse" ? "/sse" : "/ws";
  if (clientId !== undefined) whole.searchParams.set("client", clientId);
  if (onSecureToken !== undefined) whole.searchParams.set("secure_token", "1");
  return whole.href;
}

const describe = ({ code, reason }) => (code === CUT ? reason : `closed with ${code}: ${reason}`);
const stoppedBy = (end) => new Stopped(end.code, describe(end));
