// The token of this tab, and the calls that wait while there is none that the server takes.
//
// It lies in the storage of the tab alone, and goes into a header that the page sets itself. A
// cookie would be sent to every other program that listens on this machine, and with requests that
// other pages make.

const KEY = "secondlook.token";
const FORM = /^slt_[A-Za-z0-9_-]{20,200}$/;

let token = sessionStorage.getItem(KEY) ?? "";
/** Why a token is wanted; null while none is. */
let wanted: string | null = null;
let waiting: (() => void)[] = [];
let begun: Promise<unknown> = Promise.resolve();
const listeners = new Set<() => void>();

/** Tell the listeners that something has changed about the token, or about what it may do. */
export function tell(): void {
  for (const listener of listeners) listener();
}

/** Call `listener` at each change; gives what ends that. */
export function onTokenChange(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function shownToken(): string {
  return token;
}

/** Why a token is wanted; null while none is. */
export function tokenWanted(): string | null {
  return wanted;
}

/** Whether a text has the form of a token. */
export function isToken(text: string): boolean {
  return FORM.test(text);
}

/** The header that shows a token; nothing without one. */
export function authorization(shown: string): Record<string, string> {
  return shown ? { Authorization: `Bearer ${shown}` } : {};
}

/** The server has refused `shown`: ask for another, unless that has happened meanwhile. */
export function refuseToken(shown: string, why: string): void {
  if (shown !== token || wanted !== null) return;
  wanted = shown ? why : "";
  tell();
}

/** Take a token that the server accepts, and let the calls that wait go on. */
export function acceptToken(given: string): void {
  token = given;
  wanted = null;
  if (given) sessionStorage.setItem(KEY, given);
  for (const go of waiting.splice(0)) go();
  tell();
}

/** Forget the token and everything that the page has shown. */
export function forgetToken(): void {
  sessionStorage.removeItem(KEY);
  location.reload();
}

/** Let the calls wait for `first`, so that a token that has ended is shown once and not by all. */
export function waitFor(first: Promise<unknown>): void {
  begun = first.catch(() => undefined);
}

/** Returns when a call may be made; raises when `signal` is aborted before. */
export async function admitted(signal?: AbortSignal): Promise<void> {
  await begun;
  while (wanted !== null) {
    await new Promise<void>((go, stop) => {
      waiting.push(go);
      signal?.addEventListener("abort", () => stop(signal.reason as Error), { once: true });
    });
  }
  signal?.throwIfAborted();
}
