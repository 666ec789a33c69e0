// The calls of the service, with the types of what goes in and out.

import type { Role } from "./messages";

/** What every call has. */
export interface Method {
  /** "package.Service/Method". */
  readonly path: string;
  /** Who may make it: any of these suffices. */
  readonly roles: readonly Role[];
}

/** A call with one answer. */
export interface Unary<In, Out> extends Method {
  readonly types?: [In, Out];
}

/** A call whose answers come one after another. */
export interface Stream<In, Out> extends Method {
  readonly stream: true;
  readonly types?: [In, Out];
}

export const unary = <In, Out>(path: string, roles: readonly Role[]): Unary<In, Out> => ({
  path,
  roles,
});
export const stream = <In, Out>(path: string, roles: readonly Role[]): Stream<In, Out> => ({
  path,
  roles,
  stream: true,
});
