// The calls of the service, with the types of what goes in and out.

/** A call with one answer. */
export interface Unary<In, Out> {
  /** "package.Service/Method". */
  readonly path: string;
  readonly types?: [In, Out];
}

/** A call whose answers come one after another. */
export interface Stream<In, Out> {
  readonly path: string;
  readonly stream: true;
  readonly types?: [In, Out];
}

export const unary = <In, Out>(path: string): Unary<In, Out> => ({ path });
export const stream = <In, Out>(path: string): Stream<In, Out> => ({ path, stream: true });
