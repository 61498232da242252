"use strict";
const form = document.getElementById("filters");
const control = (name) => document.getElementById(name);
const items = [...document.querySelectorAll(".item")];
const groups = [...document.querySelectorAll(".group")];

function show() {
  const subject = control("subject").value;
  const process = control("process").value;
  const verdict = control("verdict").value;
  const words = control("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const item of items) {
    const told = item.dataset;
    item.hidden = !(
      (!subject || told.subject === subject) &&
      (!process || told.processes.includes(`|${process}|`)) &&
      (!verdict || told.verdicts.split(" ").includes(verdict)) &&
      words.every((word) => told.words.includes(word))
    );
  }
  for (const group of groups) {
    group.hidden = !group.querySelector(".item:not([hidden])");
  }
  const cards = items.filter((item) => item.matches("article"));
  const left = cards.filter((card) => !card.hidden).length;
  control("found").textContent = `${left} of ${cards.length} claims`;
}

// A link to a claim that the filters hide shows it.
function reach() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.hidden) {
    form.reset();
    show();
    target.scrollIntoView();
  }
}

form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(show));
addEventListener("hashchange", reach);
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((one) => (one.open = true));
});
addEventListener("afterprint", () => closed.forEach((one) => (one.open = false)));
show();
