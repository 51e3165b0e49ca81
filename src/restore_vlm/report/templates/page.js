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
const tables = Object.fromEntries(Object.entries(packed).map(([name, { columns, rows }]) =>
  [name, rows.map((row) => Object.fromEntries(columns.map((c, i) => [c, row[i]]).filter(([, v]) => v !== null)))]));
const controls = document.getElementById("controls"), boxes = all("[name=series]", controls);
const chosen = () => ({
  shown: boxes.filter((box) => box.checked).map((box) => box.value),
  dataset: controls.elements.dataset.value,
  scope: controls.elements.scope.value,
});
const count = () => {
  document.getElementById("count").textContent = `${chosen().shown.length} of ${boxes.length}`;
};
async function redraw() {
  count();
  const values = Object.entries(chosen());
  await Promise.all(views.map((view) => {
    values.forEach(([name, value]) => view.signal(name, value));
    return view.runAsync();
  }));
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
  const own = Object.fromEntries(rows.map((name) => [name, tables[name] || []]));
  const { view } = await vegaEmbed(place, { ...spec, datasets: { ...spec.datasets, ...own } }, options);
  views.push(view);
}
window.ready = Promise.all(all("[data-chart]").map(draw)).then(redraw);
