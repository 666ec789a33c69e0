// Moments as people say them.

const UNITS = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
] as const;
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** How long ago a moment was; `at` in seconds since 1970. */
export function ago(at: number): string {
  const seconds = Math.round(Date.now() / 1000 - at);
  const [unit, length] = UNITS.find(([, size]) => seconds >= size) ?? (["second", 1] as const);
  return words.format(-Math.floor(seconds / length), unit);
}

/** A moment in the time of this computer. */
export function moment(at: number): string {
  const made = new Date(at * 1000);
  return made.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}
