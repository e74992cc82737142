/** zpush.js: the reconnecting client for browsers. */

export type Transport = "websocket" | "sse";
export type State = "connecting" | "open" | "handing_over" | "waiting" | "stopped";
export type Next = "after_delay" | "backoff" | "long_backoff" | "token_first" | "never";

export interface StateInfo {
  /** For people; may be "". */
  reason: string;
  /** "stopped": the close code that says so, or 0. */
  code?: number;
  /** "waiting" and "handing_over": until the next attempt. */
  delayMs?: number;
}

export interface Options {
  /** For servers in auth.mode dev. */
  clientId?: string;
  /**
   * A token, or a function that is asked for one whenever a new one is needed; null from it stops the client, an error
   * means later.
   */
  token?: string | (() => string | null | Promise<string | null>);
  /** Default: "websocket". */
  transport?: Transport;
  /** WebSocket only. Default: "zpush.v1". "zpush.raw" has no message ids: no acks, and doubles are not found. */
  protocol?: "zpush.v1" | "zpush.raw";
  /** Tell the server when onMessage has returned, and its promise is fulfilled (zpush.v1). Default: false. */
  ack?: boolean;
  /** Called as messages come, in order; a promise is waited for by the ack, not by the next message. */
  onMessage?: (message: Message) => void | Promise<void>;
  /** Asks for each connection's secure token, and is called with it before the connection's first message. */
  onSecureToken?: (token: string) => void;
  onState?: (state: State, info: StateInfo) => void;
  /** How long an attempt may take. Default: 10 s. */
  openMs?: number;
  /** How long the old connection of a hand-over may take to end. Default: 5 s. */
  handoverMs?: number;
  /** zpush.v1: silence after which the server is asked whether it is there; 0: never. Default: 30 s. */
  pingMs?: number;
  /** From 0 to 1, for jitter. Default: Math.random. */
  random?: () => number;
  /** Where there is none of one's own, as in older Node. */
  WebSocket?: new (url: string, protocols: string[]) => any;
  EventSource?: new (url: string, options: { withCredentials: boolean }) => any;
}

/** One message. id: "" where the transport has none. */
export class Message {
  readonly id: string;
  /** The JSON value or text as sent (zpush.v1), text (zpush.raw, sse), or Uint8Array for a binary payload. */
  readonly data: unknown;
  readonly text: string;
  readonly bytes: Uint8Array;
  json(): unknown;
}

/** The client does not come back by itself. */
export class Stopped extends Error {
  readonly code: number;
}

export class Client {
  /** url: ws, http, wss or https; without a path, /ws or /sse. Throws TypeError for what cannot be used. */
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  /** Of the connection that is read, where onSecureToken asks for one; "" before the first one came. */
  readonly secureToken: string;
  /** Resolves when the client has stopped: null after close(), else the reason. */
  readonly stopped: Promise<Error | null>;
  /** Tells the server that this message was dealt with, instead of the option ack (zpush.v1). */
  ack(message: Message): void;
  close(): void;
}

export const CLOSE_CODES: Readonly<Record<number, Next>>;
