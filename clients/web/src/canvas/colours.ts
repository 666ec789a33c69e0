// A class has one colour everywhere: by its place in the ontology, as in the pages of reports.

const PALETTE = (
  "#4db8ff #ff8a3c #4fd1a5 #f082cd #ffe14d #887cff #a09458 #ff4070 #70b828 #f428ff " +
  "#28e8ff #ffaca0 #28ff28 #dcc4ff #28ff94 #d0f4a0 #ff28b8 #b8ff28 #ff4c34 #dc64e8"
).split(" ");

/** The colour of each class, by its place among `classes`. */
export function classColours(classes: readonly string[]): Map<string, string> {
  const names = [...new Set(classes)];
  return new Map(names.map((name, at) => [name, PALETTE[at % PALETTE.length] ?? "#888888"]));
}
