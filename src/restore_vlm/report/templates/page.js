"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const read = (id) => JSON.parse(document.getElementById(id).textContent);

for (const table of all("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], words = Number(table.dataset.words);
  const text = (row, column) => row.cells[column].textContent;
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const up = before === "none" ? column < words : before === "descending";
    heads.forEach((h) => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      if (column < words) return (up ? 1 : -1) * text(a, column).localeCompare(text(b, column));
      const x = parseFloat(text(a, column)), y = parseFloat(text(b, column));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return up ? x - y : y - x;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
for (const input of all("[data-filter]")) {
  const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}

const theme = document.getElementById("theme"), root = document.documentElement;
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; showTheme(); });
showTheme();

const packed = read("rows"), specs = read("specs"), views = [];
const unpacked = Object.fromEntries(Object.entries(packed).map(([name, { columns, rows }]) =>
  [name, rows.map((row) => Object.fromEntries(columns.map((c, i) => [c, row[i]]).filter(([, v]) => v !== null)))]));
const controls = document.getElementById("controls"), boxes = all("[name=series]", controls);
const count = () => {
  document.getElementById("count").textContent = `${boxes.filter((box) => box.checked).length} of ${boxes.length}`;
};
function chosen(name) {
  const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  const dataset = controls.elements.dataset.value, scope = controls.elements.scope.value;
  const datasets = new Set(unpacked[name].map((row) => row.dataset));
  const choices = new Set(unpacked[name].map((row) => row.choice));
  return unpacked[name].filter((row) =>
    !hidden.has(row.series ?? row.method)
    && (row.scope === undefined || row.scope === scope)
    && (row.dataset === undefined || !datasets.has(dataset) || row.dataset === dataset)
    && (row.choice === undefined || row.choice === (choices.has(dataset) ? dataset : ""))
  ).map((row) => ({ ...row }));
}
async function redraw() {
  count();
  await Promise.all(views.map(({ view, rows }) => view.data("rows", chosen(rows)).runAsync()));
}
controls.addEventListener("change", redraw);
controls.addEventListener("submit", (event) => event.preventDefault());
for (const button of all("[data-all]", controls)) {
  button.addEventListener("click", () => {
    boxes.forEach((box) => { box.checked = Boolean(button.dataset.all); });
    redraw();
  });
}
if (matchMedia("(max-width: 60rem)").matches) document.getElementById("series").open = false;

const options = { actions: false, renderer: "svg", loader: { load: () => Promise.reject(new Error("offline")) } };
async function draw(place) {
  const { spec, rows } = specs[Number(place.dataset.chart)];
  const { view } = await vegaEmbed(place, { ...spec, datasets: { ...spec.datasets, rows: chosen(rows) } }, options);
  views.push({ view, rows });
}
count();
window.ready = Promise.all(all("[data-chart]").map(draw));
