"use strict";
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((h) => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const value = (text) => text === "-inf" ? -Infinity : Number(text);
    const order = (a, b) => {
      const x = value(key(a)), y = value(key(b));
      const up = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x === y ? 0 : x - y;
      return down ? -up : up;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
for (const input of document.querySelectorAll("[data-filter]")) {
  const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
const theme = document.getElementById("theme"), root = document.documentElement;
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const show = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; show(); });
show();
const specs = JSON.parse(document.getElementById("specs").textContent);
const options = { actions: false, renderer: "svg", loader: { load: () => Promise.reject(new Error("offline")) } };
window.ready = Promise.all([...document.querySelectorAll("[data-chart]")].map(
  (place) => vegaEmbed(place, specs[Number(place.dataset.chart)], options)));
