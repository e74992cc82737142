// The demo page: two clients of this page's own, what they receive, and a form that pushes through the API.
// GET /demo.json tells where clients connect: {"client_port", "auth" (the mode), "key" (whether the API wants one),
// "command" (how zpush is called there)}.

import { Client } from "./zpush.js";

const SHOWN = 100; // messages or answers in a list
const READY_EVERY_MS = 5_000;
const OWN_ID = /^[0-9a-f]{24}$/; // an id that zpush made begins with the time, Unix ms in 12 hex digits

const byId = (id) => document.getElementById(id);

/** The same ids after a reload, others in another tab: two tabs with one id would replace each other. */
function clientId(transport) {
  const stored = sessionStorage.getItem(transport);
  if (stored !== null) return stored;
  const tail = crypto.getRandomValues(new Uint16Array(1))[0].toString(16).padStart(4, "0");
  const id = `${transport === "sse" ? "stream" : "socket"}-${tail}`;
  sessionStorage.setItem(transport, id);
  return id;
}

function addFirst(list, item) {
  list.prepend(item);
  while (list.children.length > SHOWN) list.lastChild.remove();
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

class ClientCard {
  #client = null;
  #transport;
  #server;
  #root;

  constructor(title, transport, server) {
    this.id = clientId(transport);
    this.#transport = transport;
    this.#server = server;
    this.#root = byId("client-template").content.firstElementChild.cloneNode(true);
    this.#root.id = transport;
    this.#find("h2").textContent = title;
    this.#find(".id").textContent = this.id;
    this.#find(".token").hidden = server.auth === "dev";
    this.#find("button").addEventListener("click", () => this.#toggle());
    this.#show("stopped", { reason: "not connected" });
    byId("clients").append(this.#root);
  }

  connect() {
    const options = {
      transport: this.#transport,
      ack: true,
      onMessage: (message) => this.#add(message),
      onState: (state, info) => this.#show(state, info),
    };
    const token = this.#find(".token input").value.trim();
    Object.assign(options, token ? { token } : { clientId: this.id });
    try {
      this.#client = new Client(`http://${location.hostname}:${this.#server.client_port}`, options);
    } catch (error) {
      this.#show("stopped", { reason: error.message });
    }
  }

  #toggle() {
    if (this.#client === null) this.connect();
    else this.#client.close();
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  #show(state, { reason, delayMs }) {
    if (state === "stopped") this.#client = null;
    const badge = this.#find(".badge");
    badge.dataset.state = state;
    badge.textContent = state.replace("_", " ");
    const wait = state !== "waiting" ? "" : `again at ${new Date(Date.now() + delayMs).toLocaleTimeString()}`;
    this.#find(".detail").textContent = [wait, reason].filter(Boolean).join(": ");
    this.#find("button").textContent = state === "stopped" ? "Connect" : "Disconnect";
  }

  #add(message) {
    const item = document.createElement("li");
    const meta = element("div", "meta", "");
    meta.append(element("span", "", new Date().toLocaleTimeString()), element("code", "", message.id));
    if (OWN_ID.test(message.id)) {
      const age = Math.max(0, Date.now() - parseInt(message.id.slice(0, 12), 16));
      meta.append(element("span", "", `${age} ms after the push`));
    }
    const content = message.data instanceof Uint8Array ? `${message.data.length} bytes, binary` : message.text;
    item.append(meta, element("pre", "", content));
    addFirst(this.#find(".messages"), item);
  }
}

// ---- pushing

function target(fields, cards) {
  switch (fields.get("to")) {
    case "both":
      return { clients: cards.map((card) => card.id) };
    case "all":
      return { all: true };
    case "other":
      return { client: fields.get("other") };
    default:
      return { client: cards[fields.get("to") === "websocket" ? 0 : 1].id };
  }
}

function body(fields, cards) {
  const push = { to: target(fields, cards), priority: fields.get("priority"), direct: fields.has("direct") };
  if (fields.get("ttl").trim()) push.ttl = fields.get("ttl").trim();
  if (!fields.has("json")) return JSON.stringify({ ...push, text: fields.get("payload") });
  JSON.parse(fields.get("payload")); // to say what is wrong; it is sent as it was typed, whatever size its numbers have
  return `${JSON.stringify(push).slice(0, -1)},"data":${fields.get("payload")}}`;
}

function describe(answer) {
  if (answer.error) return `${answer.error.code}: ${answer.error.message}`;
  if (answer.outcomes) return answer.outcomes.map((o) => `${o.outcome} ${o.client ?? o.user}`).join(", ");
  if (answer.counts) {
    const counts = Object.entries(answer.counts).map(([outcome, clients]) => `${outcome} ${clients}`);
    return counts.join(", ") || "nobody is connected";
  }
  return `queued ${answer.id}`;
}

async function push(form, cards) {
  const fields = new FormData(form);
  const headers = { "Content-Type": "application/json" };
  if (fields.get("key")) headers.Authorization = `Bearer ${fields.get("key")}`;
  try {
    const response = await fetch("/v1/push", { method: "POST", headers, body: body(fields, cards) });
    return { good: response.ok, text: describe(await response.json()) };
  } catch (error) {
    return { good: false, text: error.message };
  }
}

// ---- the page

async function showReady() {
  const badge = byId("ready");
  try {
    const { ready, reason } = await (await fetch("/readyz")).json();
    badge.dataset.state = ready ? "open" : "waiting";
    badge.textContent = ready ? "server ready" : reason;
  } catch {
    badge.dataset.state = "stopped";
    badge.textContent = "server away";
  }
  setTimeout(showReady, READY_EVERY_MS);
}

/** With addresses where they are not those that the commands take by themselves. */
function showCommands(cards, { client_port: clientPort, command }) {
  const [socket, stream] = cards.map((card) => card.id);
  const api = location.port === "8081" ? "" : ` --api ${location.origin}`;
  const url = clientPort === 8080 ? "" : ` --url ws://${location.hostname}:${clientPort}`;
  byId("commands").textContent = [
    `${command} push${api} --client ${socket} "hello"`,
    `${command} push${api} --client ${stream} --direct --json '{"hello": 1}'`,
    `${command} where${api} ${socket}`,
    `${command} listen${url} another`,
  ].join("\n");
}

async function start() {
  showReady();
  const server = await (await fetch("/demo.json")).json();
  const cards = [new ClientCard("WebSocket", "websocket", server), new ClientCard("Event stream", "sse", server)];
  showCommands(cards, server);
  byId("key").hidden = !server.key;
  const form = byId("push");
  const { to } = form.elements;
  to.addEventListener("change", () => (byId("other").hidden = to.value !== "other"));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { good, text } = await push(form, cards);
    addFirst(byId("answers"), element("li", good ? "" : "bad", text));
  });
  if (server.auth === "dev") for (const card of cards) card.connect();
}

start();
