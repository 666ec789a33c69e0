"use strict";
// Text from images, users and models only ever enters the page through textContent.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const dialog = find("viewer");
const cards = [...document.querySelectorAll(".card")];
const shownKinds = new Set(data.kinds.flatMap((kind, place) => (kind.shown ? [place] : [])));
const chosen = new Set(); // classes; none: all of them
let scores = data.scores;
let order = cards.map((_, place) => place);

const element = (tag, kind, text) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
};
const svg = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const colour = (place) => (place < 0 ? "var(--soft)" : `var(--c${place % data.colours})`);
const className = (box) => (box.of < 0 ? "region" : data.classes[box.of]);
const kindOf = (box) => data.kinds[box.kind];
const area = (box) => (box.edges[2] - box.edges[0]) * (box.edges[3] - box.edges[1]);

const read = new Map();
function boxesOf(place) {
  if (!read.has(place)) {
    const boxes = data.images[place].b.map((row, index) => {
      const [side, kind, of, x1, y1, x2, y2, score, p, exact, asked, answer, reason, id, facts = 0, mask = ""] = row;
      const texts = [asked, answer, reason, facts].map((text) => data.texts[text]);
      return { index, side, kind, of, edges: [x1, y1, x2, y2], score, p, exact, texts, id, mask };
    });
    read.set(place, boxes);
  }
  return read.get(place);
}
const visible = (box) => shownKinds.has(box.kind) && (!chosen.size || chosen.has(box.of));
const cmp = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function scoreText(box) {
  const parts = [box.score, box.p].map((value) => (value === null ? "" : value.toFixed(2)));
  if (box.p === null && box.texts[0]) parts[1] = "?";
  else if (parts[1] && !box.exact) parts[1] = `~${parts[1]}`;
  return parts.filter(Boolean).join(" / ");
}
const tagText = (box) =>
  [kindOf(box).sign, className(box), scores ? scoreText(box) : ""].filter(Boolean).join(" ");

// The boxes that are seen on one side of an image: those of the same edges together.
function groupsOf(place, side) {
  const groups = new Map();
  for (const box of boxesOf(place)) {
    if (box.side !== side || !visible(box)) continue;
    const key = box.edges.join();
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(box);
  }
  for (const group of groups.values()) group.sort((a, b) => a.kind - b.kind);
  return [...groups.values()].sort((a, b) => area(b[0]) - area(a[0]));
}

const pen = document.createElement("canvas").getContext("2d");
pen.font = "600 11px system-ui, sans-serif";
const LINE = 16;
const MOST_TAGS = [0.16, 0.3]; // share of a card that names, and names with scores, may cover

function overlay(fit, place, side, selected) {
  for (const old of fit.querySelectorAll("svg, .tag")) old.remove();
  const image = data.images[place];
  const width = fit.clientWidth;
  const height = fit.clientHeight;
  if (!width) return;
  const scale = width / image.w;
  const drawn = svg("svg", { viewBox: `0 0 ${image.w} ${image.h}`, preserveAspectRatio: "none" });
  const groups = groupsOf(place, side);
  for (const group of groups) {
    const unlike = group.filter((box, at) => group.findIndex((b) => b.kind === box.kind && b.of === box.of) === at);
    unlike.forEach((box, depth) => drawn.append(mark(box, depth, scale, selected)));
  }
  fit.append(drawn);
  const taken = [];
  const first = (group) => group[0].kind;
  const wanted = [...groups].reverse().sort((a, b) => first(a) - first(b));
  const at = wanted.findIndex((group) => group.some((box) => box.index === selected));
  if (at > 0) wanted.unshift(...wanted.splice(at, 1));
  const large = dialog.contains(fit);
  const compact = !large && !scores;
  const room = large ? Infinity : width * height * MOST_TAGS[Number(scores)];
  for (const group of wanted) {
    const covered = taken.reduce((sum, [x1, y1, x2, y2]) => sum + (x2 - x1) * (y2 - y1), 0);
    if (covered > room) break;
    const made = tag(group, compact, [width, height], scale, taken, at >= 0 && group === wanted[0]);
    if (made) fit.append(made);
  }
}

// Several classes of one box are drawn inside one another, so that no line hides another.
function mark(box, depth, scale, selected) {
  const [x1, y1, x2, y2] = box.edges;
  const inset = Math.min((depth * 3.5) / scale, (x2 - x1) / 4, (y2 - y1) / 4);
  const place = { x: x1 + inset, y: y1 + inset, width: x2 - x1 - 2 * inset, height: y2 - y1 - 2 * inset };
  const made = svg("g", { class: `box ${kindOf(box).line}${box.index === selected ? " selected" : ""}` });
  made.dataset.box = box.index;
  const title = svg("title", {});
  title.textContent = [className(box), kindOf(box).word, scoreText(box), box.texts[2]].filter(Boolean).join(" · ");
  const line = svg("rect", { class: "line", ...place });
  line.style.stroke = colour(box.of);
  made.append(title);
  if (box.mask) {
    const fill = svg("path", { class: "mask", d: box.mask });
    fill.style.fill = fill.style.stroke = colour(box.of);
    made.append(fill);
  }
  made.append(svg("rect", { class: "halo", ...place }), line);
  return made;
}

// The names of a group of boxes where they hide no other name; null where there is no room. A
// compact one has the longest name, which tells most, and the colours of the others.
function tag(group, compact, [width, height], scale, taken, always) {
  const telling = group.filter((box) => box.kind === group[0].kind);
  const longest = telling.reduce((a, b) => (className(b).length > className(a).length ? b : a));
  const named = compact ? [longest] : group;
  const others = compact ? telling.filter((box) => box !== longest) : [];
  const wide = Math.min(Math.max(...named.map((box) => measure(tagText(box)))) + 7 * others.length, width);
  const rows = named.map((box) => Math.ceil(measure(tagText(box)) / Math.max(wide, 1)));
  const high = LINE * rows.reduce((a, b) => a + b, 0);
  const place = placeOf(group[0].edges.map((edge) => edge * scale), wide, high, width, height, taken, always);
  if (!place) return null;
  taken.push([place[0], place[1], place[0] + wide, place[1] + high]);
  const made = element("span", compact ? "tag compact" : "tag");
  Object.assign(made.style, { left: `${place[0]}px`, top: `${place[1]}px`, width: `${wide}px` });
  for (const box of others) made.append(painted(element("i"), box));
  named.forEach((box, at) => {
    const line = painted(element("span", "", tagText(box)), box);
    line.style.height = `${rows[at] * LINE}px`;
    made.append(line);
  });
  return made;
}
const measure = (text) => pen.measureText(text).width + 10;
function painted(node, box) {
  node.style.background = colour(box.of);
  return node;
}
function placeOf([x1, y1, x2, y2], wide, high, width, height, taken, always) {
  const [lastLeft, lastTop] = [Math.max(width - wide, 0), Math.max(height - high, 0)];
  const free = (left, top) =>
    left >= 0 && top >= 0 && left <= lastLeft + 1 && top <= lastTop + 1 &&
    !taken.some((t) => left < t[2] && t[0] < left + wide && top < t[3] && t[1] < top + high);
  for (const left of [x1, x2 - wide, Math.max(0, Math.min(x1, lastLeft))]) {
    for (const top of [y1 - high, y1 + 2, y2 - high - 2, y2]) if (free(left, top)) return [left, top];
  }
  return always ? [Math.min(Math.max(x1, 0), lastLeft), Math.min(Math.max(y1, 0), lastTop)] : null;
}

// Boxes are drawn when an image comes near the window, and again when something was switched.
const near = new Set();
const stale = new Set(order);
function draw(place) {
  if (!stale.delete(place)) return;
  const fits = cards[place].querySelectorAll(".fit");
  const image = fits[0].querySelector("img");
  fits.forEach((fit, side) => {
    if (side && image && !fit.querySelector("img")) fit.append(image.cloneNode());
    overlay(fit, place, side, -1);
  });
}
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const place = cards.indexOf(target);
    if (!isIntersecting) near.delete(place);
    else {
      near.add(place);
      draw(place);
    }
  }
}, { rootMargin: "400px" });
cards.forEach((card) => watcher.observe(card));
function redraw() {
  order.forEach((place) => stale.add(place));
  near.forEach(draw);
  if (current >= 0) show(current, selected);
}

const natural = new Intl.Collator(undefined, { numeric: true });
const value = (id) => find(id)?.value ?? "";
function rank(by) {
  const images = data.images;
  if (by === "name") return (a, b) => natural.compare(images[a].n, images[b].n) || a - b;
  if (by === "boxes") {
    const counts = images.map((_, place) => boxesOf(place).filter(visible).length);
    return (a, b) => counts[b] - counts[a] || a - b;
  }
  return (a, b) => cmp(images[a].k[by], images[b].k[by]) || a - b;
}

function apply() {
  const text = value("search").toLowerCase();
  const flag = value("flag");
  const fits = (place) => {
    const image = data.images[place];
    return (!text || image.n.toLowerCase().includes(text)) &&
      (flag === "" || image.f.includes(Number(flag))) &&
      (!chosen.size || boxesOf(place).some(visible));
  };
  cards.forEach((card) => { card.hidden = true; });
  order = cards.map((_, place) => place).filter(fits).sort(rank(value("order") || "0"));
  order.forEach((place) => {
    cards[place].hidden = false;
    find("cards").append(cards[place]);
  });
  if (find("count")) find("count").textContent = cards.length > 1 ? `${order.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")}` : "";
  if (find("nothing")) find("nothing").hidden = order.length > 0 || !cards.length;
  redraw();
}

function press(selector, on) {
  for (const button of document.querySelectorAll(selector)) button.setAttribute("aria-pressed", String(on));
}
function switchKind(kind) {
  if (!(kind in data.kinds)) return;
  if (!shownKinds.delete(kind)) shownKinds.add(kind);
  press(`[data-kind="${kind}"]`, shownKinds.has(kind));
  apply();
}
function switchScores() {
  scores = !scores;
  press("[data-scores]", scores);
  redraw();
}
function switchClass(place) {
  if (!chosen.delete(place)) chosen.add(place);
  press(`[data-class="${place}"]`, chosen.has(place));
  apply();
}

// The large view of one image.
const panel = find("panel");
const panes = [...dialog.querySelectorAll(".pane")];
const scrollers = panes.map((pane) => pane.querySelector(".scroller"));
let current = -1;
let selected = -1;
let zoom = 1;

function open(place, box = -1) {
  if (!dialog.open) {
    dialog.showModal();
    dialog.focus();
  }
  zoom = 1;
  current = place;
  const thumbnail = cards[place].querySelector("img");
  for (const pane of panes) {
    const fit = pane.querySelector(".fit");
    fit.replaceChildren();
    if (thumbnail) fit.append(thumbnail.cloneNode());
  }
  loadOriginal(place);
  show(place, box);
}

function loadOriginal(place) {
  const name = data.images[place].o;
  if (!name || name.split("/").includes("..")) return;
  const folders = [...data.originals];
  const original = new Image();
  const tryNext = () => {
    const folder = folders.shift();
    if (folder) original.src = folder + name.split("/").map(encodeURIComponent).join("/");
  };
  original.onload = () => {
    if (current !== place) return;
    for (const image of dialog.querySelectorAll(".fit img")) image.src = original.src;
  };
  original.onerror = tryNext;
  tryNext();
}

function show(place, box) {
  const image = data.images[place];
  selected = box;
  find("v-name").textContent = image.n;
  const at = order.indexOf(place);
  find("v-place").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`;
  panes.forEach((pane, side) => {
    const fit = pane.querySelector(".fit");
    const fitting = Math.min(scrollers[side].clientWidth, (scrollers[side].clientHeight * image.w) / image.h);
    fit.style.width = `${fitting * zoom}px`;
    fit.style.height = `${(fitting * zoom * image.h) / image.w}px`;
    overlay(fit, place, side, box);
  });
  fillPanel(place);
}

function fillPanel(place) {
  const image = data.images[place];
  const blocks = [];
  data.sides.forEach((name, side) => {
    const groups = groupsOf(place, side).reverse().sort((a, b) => a[0].kind - b[0].kind);
    if (name && groups.length) blocks.push(element("h2", "", name));
    blocks.push(...groups.flat().map((box) => said(box)));
  });
  const hidden = boxesOf(place).filter((box) => !visible(box)).length;
  if (data.texts[image.t]) blocks.unshift(element("p", "hint", data.texts[image.t]));
  if (hidden) blocks.push(element("p", "hint", `${hidden} more boxes are switched off.`));
  if (image.more) blocks.push(element("p", "hint", `${image.more} boxes are left out of this page.`));
  panel.replaceChildren(...blocks);
  panel.querySelector(".selected")?.scrollIntoView({ block: "nearest" });
}

function said(box) {
  const block = element("section", `said${box.index === selected ? " selected" : ""}`);
  block.dataset.box = box.index;
  const head = element("button", "head");
  head.type = "button";
  const swatch = element("i", "swatch");
  swatch.style.background = colour(box.of);
  head.append(swatch, element("b", "", className(box)), element("span", "", kindOf(box).word), element("span", "numbers", scoreText(box)));
  block.append(head);
  if (box.index === selected) block.append(details(box));
  return block;
}

function details(box) {
  const list = element("dl");
  const fact = (name, text, share) => {
    if (text === "" || text === null) return;
    const shown = element("dd", "", text);
    if (share !== undefined) {
      const bar = element("span", "meter");
      const fill = element("i");
      fill.style.width = `${100 * share}%`;
      bar.append(fill);
      shown.append(bar);
    }
    list.append(element("dt", "", name), shown);
    return shown;
  };
  const [asked, answer, reason, mask] = box.texts;
  if (box.score !== null) fact(asked || box.p !== null ? "proposer" : "score", box.score.toFixed(3), box.score);
  if (box.p !== null) fact(box.exact ? "P(yes)" : "P(yes), from words", box.p.toFixed(3), box.p);
  fact("asked", asked);
  if (asked && (answer || box.p === null)) fact("answered", answer || "nothing");
  fact("because", reason);
  const [x1, y1, x2, y2] = box.edges;
  fact("box", `${x1} ${y1} ${x2} ${y2} (${Math.round(x2 - x1)}×${Math.round(y2 - y1)} pixels)`);
  fact("mask", mask);
  const id = fact("label id", box.id);
  if (id) {
    const copy = element("button", "copy", "copy");
    copy.type = "button";
    copy.dataset.copy = box.id;
    id.append(copy);
  }
  return list;
}

function step(by) {
  const at = order.indexOf(current);
  const next = order[at < 0 ? 0 : (at + by + order.length) % order.length];
  if (next !== undefined) open(next);
}
function stepBox(by) {
  const blocks = [...panel.querySelectorAll(".said")].map((block) => Number(block.dataset.box));
  if (!blocks.length) return;
  const at = blocks.indexOf(selected);
  show(current, blocks[at < 0 ? (by > 0 ? 0 : blocks.length - 1) : (at + by + blocks.length) % blocks.length]);
}
// Keeps the point under the pointer, or the middle, where it is.
function zoomTo(wanted, event) {
  const before = zoom;
  zoom = Math.min(Math.max(wanted, 1), 16);
  const pane = (event && event.target.closest(".scroller")) || scrollers[0];
  const { left, top } = pane.getBoundingClientRect();
  const x = event ? event.clientX - left : pane.clientWidth / 2;
  const y = event ? event.clientY - top : pane.clientHeight / 2;
  const [atX, atY] = [pane.scrollLeft + x, pane.scrollTop + y];
  show(current, selected);
  pane.scrollTo((atX * zoom) / before - x, (atY * zoom) / before - y);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const box = event.target.closest("[data-box]");
  const set = button?.dataset ?? {};
  if (set.kind) switchKind(Number(set.kind));
  else if ("scores" in set) switchScores();
  else if (set.class) switchClass(Number(set.class));
  else if (set.zoom) zoomTo(set.zoom === "0" ? 1 : zoom * 1.5 ** Number(set.zoom));
  else if (set.step) step(Number(set.step));
  else if ("close" in set) dialog.close();
  else if (set.copy) navigator.clipboard?.writeText(set.copy).then(() => { button.textContent = "copied"; });
  else if (set.open) {
    const place = Number(set.open);
    open(place, boxesOf(place).findIndex((box) => box.id === set.at));
  }
  else if (button?.classList.contains("frames")) open(cards.indexOf(button.closest(".card")), box ? Number(box.dataset.box) : -1);
  else if (dialog.contains(event.target) && !moved) {
    if (box) show(current, Number(box.dataset.box) === selected ? -1 : Number(box.dataset.box));
    else if (event.target.closest(".stage")) show(current, -1);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event;
  if (/^[1-9]$/.test(key)) switchKind(Number(key) - 1);
  else if (key === "s" || key === "S") switchScores();
  else if (!dialog.open) return;
  else if (key === "ArrowLeft") step(-1);
  else if (key === "ArrowRight") step(1);
  else if (key === "ArrowUp") stepBox(-1);
  else if (key === "ArrowDown") stepBox(1);
  else if (key === "+" || key === "=") zoomTo(zoom * 1.5);
  else if (key === "-") zoomTo(zoom / 1.5);
  else if (key === "0") zoomTo(1);
  else return;
  event.preventDefault();
});
dialog.addEventListener("close", () => {
  const card = cards[current];
  current = -1;
  card?.scrollIntoView({ block: "nearest" });
});
const hover = (on) => (event) => {
  const box = event.target.closest("[data-box]");
  if (!box) return;
  for (const one of dialog.querySelectorAll(`[data-box="${box.dataset.box}"]`)) one.classList.toggle("hover", on);
};
dialog.addEventListener("mouseover", hover(true));
dialog.addEventListener("mouseout", hover(false));

let moved = false;
for (const scroller of scrollers) {
  let from = null;
  scroller.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(zoom * 1.2 ** -Math.sign(event.deltaY), event);
  }, { passive: false });
  scroller.addEventListener("pointerdown", (event) => {
    moved = false;
    if (event.pointerType === "mouse") from = [event.clientX + scroller.scrollLeft, event.clientY + scroller.scrollTop];
  });
  scroller.addEventListener("pointermove", (event) => {
    if (!from || !event.buttons) return;
    const [left, top] = [from[0] - event.clientX, from[1] - event.clientY];
    moved ||= Math.hypot(left - scroller.scrollLeft, top - scroller.scrollTop) > 3;
    scroller.scrollTo(left, top);
  });
  scroller.addEventListener("scroll", () => {
    for (const other of scrollers) {
      if (other !== scroller && other.scrollLeft !== scroller.scrollLeft) other.scrollLeft = scroller.scrollLeft;
      if (other !== scroller && other.scrollTop !== scroller.scrollTop) other.scrollTop = scroller.scrollTop;
    }
  });
}

for (const id of ["order", "flag"]) find(id)?.addEventListener("change", apply);
find("search")?.addEventListener("input", apply);
find("size")?.addEventListener("input", (event) => {
  find("cards").style.setProperty("--tile", `${event.target.value}px`);
});
let waiting = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
}).observe(find("cards") ?? document.body);
addEventListener("resize", () => current >= 0 && show(current, selected));
apply();
