// Two trials of the same images side by side, and what differs between them.

import type { Judgement } from "../api/messages";
import { overlap, rectOf } from "../canvas/geometry";

/** IoU from which two boxes are at the same place. */
const SAME_PLACE = 0.5;

/**
 * Places of the judgements that the other side decides otherwise or has no box for. A class that
 * the other side does not have at all counts as the same one, so that two wordings of one thing
 * under two names can be compared.
 */
export function differing(
  own: readonly [number, Judgement][],
  others: readonly [number, Judgement][],
  otherNames: readonly string[],
): ReadonlySet<number> {
  const found = own.filter(([, one]) => {
    const known = otherNames.includes(one.className ?? "");
    return !others.some(
      ([, other]) =>
        (!known || one.className === other.className) &&
        one.outcome === other.outcome &&
        overlap(rectOf(one.box), rectOf(other.box)) >= SAME_PLACE,
    );
  });
  return new Set(found.map(([index]) => index));
}
