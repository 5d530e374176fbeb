"use strict";
const boards = JSON.parse(document.getElementById("plots").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function key(cell) {
  const value = cell.dataset.value;
  if (value === undefined || value === "") return null;
  return Number.isNaN(Number(value)) ? value.toLowerCase() : Number(value);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b));
}

function group(table) {
  const wanted = table.closest("section").querySelector("input[name=group]");
  if (!wanted || !wanted.checked) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const models = [...new Set(rows.map(row => row.dataset.model))];  // in the order of each model's first row
  for (const model of models) for (const row of rows) if (row.dataset.model === model) body.appendChild(row);
}

function filter(table, text) {
  const words = text.trim().toLowerCase().split(/\s+/);
  for (const row of table.tBodies[0].rows) {
    const name = row.cells[1].textContent.toLowerCase() + " " + (row.dataset.model || "").toLowerCase();
    row.hidden = !words.every(word => name.includes(word));
  }
}

for (const controls of document.querySelectorAll(".controls")) {
  const table = controls.closest("section").querySelector("table.board");
  const made = Array.from(table.tBodies[0].rows);  // the order of ranks
  controls.querySelector("input[type=search]").addEventListener("input", event => filter(table, event.target.value));
  controls.querySelector("input[name=group]").addEventListener("change", () => {
    const sorted = table.querySelector("th[aria-sort]");
    for (const row of made) table.tBodies[0].appendChild(row);
    if (sorted) arrange(table, sorted, sorted.getAttribute("aria-sort"));
    group(table);
  });
}

function sortBy(header) {
  const table = header.closest("table");
  const first = header.dataset.first || "ascending";
  const now = header.getAttribute("aria-sort");
  const order = now === first ? (first === "ascending" ? "descending" : "ascending") : first;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  arrange(table, header, order);
  group(table);
}

function arrange(table, header, order) {
  const column = header.cellIndex;
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).map((row, i) => ({ row, i, failed: row.classList.contains("failed"), value: row.cells[column] ? key(row.cells[column]) : null }));
  rows.sort((a, b) => {
    if (a.failed !== b.failed) return a.failed ? 1 : -1;
    if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;
    if (a.value === null) return a.i - b.i;
    return sign * compare(a.value, b.value) || a.i - b.i;
  });
  for (const entry of rows) body.appendChild(entry.row);
}

for (const header of document.querySelectorAll("table.board th")) {
  const button = header.querySelector("button");
  if (button) button.addEventListener("click", () => sortBy(header));
}

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return Object.assign({ paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 10, r: 14, t: 8, b: 10 },
    hovermode: "closest", font: { color: ink, family: "system-ui, sans-serif", size: 12 } }, layout,
    { xaxis: Object.assign({}, axis, layout.xaxis), yaxis: Object.assign({}, axis, layout.yaxis) });
}

function colour(trace) {
  const style = getComputedStyle(document.documentElement);
  const copy = JSON.parse(JSON.stringify(trace));
  const role = copy.role;
  delete copy.role;
  if (role) {
    const value = style.getPropertyValue("--" + role).trim();
    copy.marker = Object.assign({}, copy.marker, { color: value });
    if (copy.error_x) copy.error_x.color = value;
    if (copy.textfont) copy.textfont.color = value;
  }
  return copy;
}

function draw(figure) {
  const place = document.getElementById(figure.id);
  const choice = document.getElementById(figure.id + "-choice");
  const view = figure.views[choice ? Number(choice.value) : 0];
  Plotly.react(place, view.data.map(colour), themed(view.layout), { responsive: true, displayModeBar: false });
}

function drawAll() { for (const figure of boards) draw(figure); }

for (const figure of boards) {
  const choice = document.getElementById(figure.id + "-choice");
  if (choice) choice.addEventListener("change", () => draw(figure));
}
dark.addEventListener("change", drawAll);
drawAll();
document.documentElement.dataset.ready = "yes";
