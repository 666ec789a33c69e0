// Single keys as commands. They can be switched off, for people who speak to their computer.

import { useEffect, useRef } from "preact/hooks";

const SWITCH = "secondlook.keys";

export function keysOn(): boolean {
  return localStorage.getItem(SWITCH) !== "off";
}

export function switchKeys(on: boolean): void {
  localStorage.setItem(SWITCH, on ? "on" : "off");
}

/** Where typing is meant, a key is a letter. */
function typing(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("input, textarea, select") !== null;
}

/** Whether `key` is one that only a person at a keyboard presses on purpose. */
function named(key: string): boolean {
  return key.length > 1;
}

/**
 * Call `handle` with each key that no field takes and no dialog stands before; true: it was used.
 * A letter is upper case: "Y". Enter and the space bar on a button are the button's.
 */
export function useKeys(handle: (key: string, event: KeyboardEvent) => boolean): void {
  const latest = useRef(handle);
  latest.current = handle;
  useEffect(() => {
    const down = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey) return;
      if (typing(event.target) || document.querySelector("dialog[open]")) return;
      const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
      if (!named(key) && !keysOn()) return;
      const pressed = key === "Enter" || key === " ";
      if (pressed && event.target instanceof Element && event.target.closest("a, button, summary"))
        return;
      if (latest.current(key, event)) event.preventDefault();
    };
    window.addEventListener("keydown", down);
    return () => window.removeEventListener("keydown", down);
  }, []);
}

const STEPS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The direction of an arrow key. */
export function step(key: string): [number, number] | undefined {
  return STEPS[key];
}
