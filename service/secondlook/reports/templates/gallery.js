"use strict";
// Text from images, users and models only ever enters the page through textContent.
const words = JSON.parse(document.body.dataset.words);
const cards = [...document.querySelectorAll(".card")];
const panel = document.getElementById("panel");
const outcomes = new Set(Object.keys(words));
let wanted = "";
let held = null;

const element = (tag, kind, text) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
};

function figure(list, name, value, share) {
  list.append(element("dt", "", name));
  const shown = element("dd", "", value);
  if (share !== undefined) {
    const bar = element("span", "bar");
    const fill = element("i");
    fill.style.width = `${100 * share}%`;
    bar.append(fill);
    shown.append(bar);
  }
  list.append(shown);
}

function explain(said) {
  const block = element("section", `said ${said.outcome}`);
  const title = element("h3", "", said.class);
  title.append(element("span", "", words[said.outcome]));
  const list = element("dl");
  figure(list, "proposer", said.score.toFixed(2), said.score);
  if (said.p !== null) figure(list, said.exact ? "P(yes)" : "P(yes), from words", said.p.toFixed(2), said.p);
  if (said.question) figure(list, "asked", `${said.question} (${said.view})`);
  if (said.question) figure(list, "answered", said.raw || "nothing");
  figure(list, "because", said.reason);
  block.append(title, list);
  return block;
}

function show(box) {
  const name = box.closest(".card").querySelector(".name").textContent;
  const rank = { accept: 0, unsure: 1, reject: 2 };
  const said = JSON.parse(box.dataset.said).sort((a, b) => rank[a.outcome] - rank[b.outcome]);
  panel.replaceChildren(element("h2", "", name), ...said.map(explain));
}

function hold(box) {
  if (held) held.classList.remove("held");
  held = box;
  if (box) {
    box.classList.add("held");
    show(box);
  }
}

function filter() {
  for (const card of cards) {
    const boxes = [...card.querySelectorAll(".box")];
    const tags = [...card.querySelectorAll(".tag")];
    let any = false;
    const visible = (node) =>
      outcomes.has(node.dataset.outcome) && (!wanted || JSON.parse(node.dataset.classes).includes(wanted));
    for (const box of boxes) {
      const on = visible(box);
      any ||= on;
      box.toggleAttribute("hidden", !on);
    }
    for (const tag of tags) tag.hidden = boxes[Number(tag.dataset.box)].hasAttribute("hidden");
    card.hidden = !any && (wanted !== "" || outcomes.size < Object.keys(words).length);
  }
}

function toggle(outcome) {
  if (!(outcome in words)) return;
  if (!outcomes.delete(outcome)) outcomes.add(outcome);
  document.querySelector(`button[data-outcome=${outcome}]`)
    .setAttribute("aria-pressed", String(outcomes.has(outcome)));
  filter();
}

function step(card, by) {
  const boxes = [...card.querySelectorAll(".box:not([hidden])")];
  if (!boxes.length) return;
  const now = boxes.indexOf(held);
  hold(boxes[now < 0 ? (by > 0 ? 0 : boxes.length - 1) : (now + by + boxes.length) % boxes.length]);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const box = event.target.closest(".box");
  if (button?.dataset.outcome) toggle(button.dataset.outcome);
  else if (button?.classList.contains("class")) {
    wanted = button.dataset.class;
    for (const other of document.querySelectorAll("button.class")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    filter();
  } else if (!event.target.closest("aside")) hold(box === held ? null : box);
});
document.addEventListener("mouseover", (event) => {
  const box = event.target.closest(".box");
  if (box && !held) show(box);
});
document.addEventListener("keydown", (event) => {
  const card = event.target.closest(".card");
  const outcome = { 1: "accept", 2: "reject", 3: "unsure" }[event.key];
  if (outcome) toggle(outcome);
  else if (event.key === "Escape") hold(null);
  else if (card && event.key === "ArrowRight") step(card, 1);
  else if (card && event.key === "ArrowLeft") step(card, -1);
  else if (card && event.key === "Enter" && !held) step(card, 1);
  else return;
  if (event.key.startsWith("Arrow")) event.preventDefault();
});
const measure = () => document.documentElement.style
  .setProperty("--top", `${document.querySelector("header").offsetHeight + 16}px`);
addEventListener("resize", measure);
measure();
const all = document.querySelectorAll(".box");
if (all.length === 1) hold(all[0]);
