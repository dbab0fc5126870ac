// A picture under a grid of cells, by pointer and by keyboard. Props: picture, rows, columns, marking, labels.
// value: the cell that was chosen, or with `marking` the numbers of all marked cells.
const FINEST = 24, MOST_WORDS = 8;  // columns up to which the lines of the grid, and the codes in it, are drawn
let cursor = 0, painting = null;
const frame = () => element.querySelector(".cells");
const count = () => props.rows * props.columns;
const marked = () => new Set(props.marking && props.value ? String(props.value).split(" ").map(Number) : []);

function redraw() {
  if (!frame()) return;
  cursor = Math.min(cursor, count() - 1);
  const square = (cell, name) => `<rect class="${name}" x="${cell % props.columns}" ` +
    `y="${Math.floor(cell / props.columns)}" width="1" height="1"/>`;
  const chosen = !props.marking && props.value !== "" ? square(Number(props.value), "chosen") : "";
  const labels = props.labels ? props.labels.split(" ") : [], label = labels[cursor] || "";
  const lines = (number, line) => Array.from({ length: number - 1 }, (_, i) => line(i + 1)).join("");
  const grid = props.columns > FINEST ? "" : `<path d="${lines(props.columns, x => `M${x} 0V${props.rows}`)}` +
    `${lines(props.rows, y => `M0 ${y}H${props.columns}`)}"/>`;
  const words = props.columns > MOST_WORDS ? "" : labels.map((text, cell) => `<text x="${cell % props.columns + 0.5}" ` +
    `y="${Math.floor(cell / props.columns) + 0.6}">${Number(text)}</text>`).join("");
  frame().querySelector("svg").innerHTML = grid + words +
    [...marked()].map(cell => square(cell, "marked")).join("") + chosen + square(cursor, "cursor");
  element.querySelector(".where").textContent =
    `row ${Math.floor(cursor / props.columns) + 1}, column ${cursor % props.columns + 1}` +
    (label ? `: ${label === "-" ? "empty" : "code " + label}` : "") +
    (props.marking ? `; ${marked().size} of ${count()} marked` : "");
}

function act(cell, mark) {
  cursor = cell;
  if (props.marking) {
    const cells = marked();
    if (mark) cells.add(cell); else cells.delete(cell);
    props.value = [...cells].sort((a, b) => a - b).join(" ");
  } else {
    props.value = String(cell);
    trigger("select");
  }
  redraw();
}

function cellAt(event) {
  const box = frame().getBoundingClientRect();
  const part = (at, start, size, cells) => Math.max(0, Math.min(cells - 1, Math.floor((at - start) / size * cells)));
  return part(event.clientY, box.top, box.height, props.rows) * props.columns +
    part(event.clientX, box.left, box.width, props.columns);
}

element.addEventListener("pointerdown", event => {
  if (!event.target.closest(".cells") || event.button) return;
  const cell = cellAt(event);
  painting = !marked().has(cell);
  if (props.marking) frame().setPointerCapture(event.pointerId);
  act(cell, painting);
});
element.addEventListener("pointermove", event => {
  if (props.marking && painting !== null && event.buttons) act(cellAt(event), painting);
});
element.addEventListener("pointerup", () => { painting = null; });
element.addEventListener("keydown", event => {
  if (!event.target.closest(".cells")) return;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -props.columns, ArrowDown: props.columns };
  if (event.key in moves) {
    const next = cursor + moves[event.key];
    if (next >= 0 && next < count()) cursor = next;
    redraw();
  } else if (event.key === "Enter" || event.key === " ") {
    act(cursor, !marked().has(cursor));
  } else return;
  event.preventDefault();
});
watch(["picture", "rows", "columns", "labels", "value"], redraw);
redraw();
