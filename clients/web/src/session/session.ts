// Whose token the page shows, and what it may do with it.

import { useEffect, useReducer } from "preact/hooks";
import { CallError, callWith, messageOf } from "../api/connect";
import { getServerInfo, listRuns, type Caller, type Role } from "../api/messages";
import type { Method } from "../api/method";
import { texts } from "../texts";
import {
  acceptToken,
  isToken,
  onTokenChange,
  refuseToken,
  shownToken,
  tell,
  waitFor,
} from "./token";

const AGAIN_MS = 5000;
const ALSO_VIEWERS: readonly Role[] = ["ROLE_LABELER", "ROLE_REVIEWER", "ROLE_TRAINER"];

/** Null while the server asks for no token, or was not heard yet. */
let caller: Caller | null = null;

export function currentCaller(): Caller | null {
  return caller;
}

function allows(who: Caller, method: Method): boolean {
  // A device is bound to its own streams and models, so what it may do is nothing for a page.
  const own = (who.roles ?? []).filter((one) => one !== "ROLE_DEVICE");
  if (own.includes("ROLE_ADMIN") || own.some((one) => method.roles.includes(one))) return true;
  return method.roles.includes("ROLE_VIEWER") && own.some((one) => ALSO_VIEWERS.includes(one));
}

/** Whether the token allows a call, as the server declares it. What it may not is not offered. */
export function may(method: Method): boolean {
  return caller === null || allows(caller, method);
}

/** Ask the server who we are; again later, when it does not answer. */
async function introduce(): Promise<void> {
  const shown = shownToken();
  try {
    const info = await callWith(shown, getServerInfo, {});
    caller = info.caller ?? null;
    if (caller && !allows(caller, listRuns)) refuseToken(shown, texts.login.device);
    tell();
  } catch (error) {
    if (error instanceof CallError && error.code === "unauthenticated") {
      refuseToken(shown, error.message);
    } else {
      setTimeout(() => void introduce(), AGAIN_MS);
    }
  }
}

/** Begin: other calls wait until it is known whether the token of before is still good. */
export function beginSession(): void {
  waitFor(introduce());
}

/** Show a token to the server; says why it is not taken, or nothing. */
export async function login(typed: string): Promise<string> {
  const given = typed.trim();
  if (!isToken(given)) return texts.login.noToken;
  try {
    const info = await callWith(given, getServerInfo, {});
    const found = info.caller ?? null;
    if (found && !allows(found, listRuns)) return texts.login.device;
    caller = found;
    acceptToken(given);
    return "";
  } catch (error) {
    return messageOf(error);
  }
}

/** Whose token it is; rendered again when that changes, or another one is wanted. */
export function useSession(): Caller | null {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  useEffect(() => onTokenChange(() => update(0)), []);
  return caller;
}
