// An EventSource for Node versions without one: enough of WHATWG HTML 9.2 for zpush.js, over a real socket. It never comes
// back by itself, for zpush.js closes it at the first error.

import http from "node:http";

export class HttpEventSource extends EventTarget {
  #request;
  #buffer = "";
  #id = "";

  constructor(url) {
    super();
    this.#request = http.get(url, { headers: { Accept: "text/event-stream" }, agent: false }, (response) => {
      if (response.statusCode !== 200) return this.#fail();
      this.onopen?.(new Event("open"));
      response.setEncoding("utf8");
      response.on("data", (text) => this.#read(text));
      response.on("end", () => this.#fail());
      response.on("error", () => this.#fail());
    });
    this.#request.on("error", () => this.#fail());
  }

  close() {
    this.#request.destroy();
  }

  #fail() {
    this.onerror?.(new Event("error"));
  }

  #read(text) {
    this.#buffer += text;
    const events = this.#buffer.split("\n\n");
    this.#buffer = events.pop();
    for (const event of events) this.#dispatch(event.split("\n"));
  }

  #dispatch(lines) {
    let name = "message";
    const data = [];
    for (const line of lines) {
      const [field, value] = [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id") this.#id = value;
    }
    if (data.length === 0) return;
    const event = new Event(name);
    this.dispatchEvent(Object.assign(event, { data: data.join("\n"), lastEventId: this.#id }));
  }
}
