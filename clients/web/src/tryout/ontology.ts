// Classes as they are typed: one line a class, as the command line takes them, and as YAML.

import type { ClassSpec, Ontology } from "../api/messages";
import { texts } from "../texts";

/** Thresholds of one class, or of all. */
export interface Thresholds {
  /** Proposer score from which the question is asked. */
  threshold: number;
  /** P(yes) from which a box is accepted. */
  accept: number;
  /** P(yes) up to which it is rejected. */
  reject: number;
}

/** The service's own. */
export const DEFAULTS: Thresholds = { threshold: 0.25, accept: 0.6, reject: 0.4 };

/** A line that is no class: its number from 1, and why. */
export class BadLine extends Error {}

function partition(text: string, mark: string): [string, string | null] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, null] : [text.slice(0, at), text.slice(at + 1)];
}

/** `name [@group] [= phrase, phrase …] [? question]`, or bare names with commas. */
function classesOf(line: string): ClassSpec[] {
  const [head, question] = partition(line, "?");
  const [left, phrases] = partition(head, "=");
  let name = left.trim();
  let group: string | null = null;
  const at = name.lastIndexOf("@");
  // An "@" inside of a word is part of the name.
  if (at >= 0 && !name.slice(0, at).slice(-1).trim()) {
    group = name.slice(at + 1).trim();
    name = name.slice(0, at).trim();
  }
  const given = { group, phrases, question };
  for (const [what, text] of Object.entries(given)) {
    if (text !== null && !text.trim()) throw new BadLine(texts.tryout.emptyPart(what));
  }
  if (group === null && phrases === null && question === null) {
    return name.split(",").map((one) => ({ name: one.trim() }));
  }
  if (name.includes(",")) throw new BadLine(texts.tryout.severalNames);
  const spec: ClassSpec = { name };
  if (phrases !== null) spec.phrases = phrases.split(",").map((one) => one.trim());
  if (question !== null) spec.question = question.trim();
  if (group !== null) spec.group = group;
  return [spec];
}

/** The classes of a text with one line a class. Raises BadLine. */
export function classesOfText(text: string): ClassSpec[] {
  const lines = text.split("\n").map((one, at) => [at + 1, one.trim()] as const);
  return lines.flatMap(([number, line]) => {
    if (!line) return [];
    try {
      return classesOf(line);
    } catch (error) {
      throw error instanceof BadLine
        ? new BadLine(texts.tryout.badLine(number, error.message))
        : error;
    }
  });
}

/** The same, with the error of a bad line in place of the classes. */
export function parsedClasses(text: string): { classes: ClassSpec[]; error: string } {
  try {
    return { classes: classesOfText(text), error: "" };
  } catch (error) {
    if (error instanceof BadLine) return { classes: [], error: error.message };
    throw error;
  }
}

/** The classes with thresholds; `asking` is the lowest score from which questions are asked. */
export function ontologyOf(classes: ClassSpec[], asking: number): Ontology {
  return { classes: classes.map((one) => ({ ...one, threshold: asking })) };
}

/** The YAML of an ontology file. Every text is quoted, so none can be read as something else. */
export function yamlOf(classes: ClassSpec[], of: (name: string) => Thresholds): string {
  const lines = ["classes:"];
  for (const { name = "", phrases, question, group } of classes) {
    const entries: string[] = [];
    if (phrases?.length) entries.push(`phrases: [${phrases.map(quoted).join(", ")}]`);
    if (question) entries.push(`question: ${quoted(question)}`);
    if (group) entries.push(`group: ${quoted(group)}`);
    const limits = of(name);
    for (const key of ["threshold", "accept", "reject"] as const) {
      if (limits[key] !== DEFAULTS[key]) entries.push(`${key}: ${limits[key]}`);
    }
    lines.push(`  ${quoted(name)}:`, ...entries.map((one) => `    ${one}`));
  }
  return `${lines.join("\n")}\n`;
}

/** A text in double quotes, where YAML reads what JSON writes. */
function quoted(text: string): string {
  return JSON.stringify(text);
}

/** A text of classes in which another question is asked of one of them. */
export function withQuestion(text: string, name: string, question: string): string {
  // A line has one class, and a question has neither a line's end nor another mark before it.
  const words = question.replace(/\s+/g, " ").trim();
  return text
    .split("\n")
    .map((line) => {
      const names = line.trim() ? classesOfText(line).map((one) => one.name) : [];
      if (!names.includes(name)) return line;
      if (names.length === 1) return `${partition(line, "?")[0].trimEnd()} ? ${words}`;
      const others = names.filter((one) => one !== name).join(", ");
      return `${others}\n${name} ? ${words}`;
    })
    .join("\n");
}
