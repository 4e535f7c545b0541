// Sorts the tables by their columns. Without it the page shows everything all the same.
"use strict";
(() => {
  const compare = (left, right) =>
    typeof left === "number" && typeof right === "number"
      ? left - right
      : String(left).localeCompare(String(right), "en", { numeric: true });

  // What a row sorts by in a column; undefined: not measured.
  const keyOf = (row, column, numeric) => {
    const value = row.cells[column].dataset.value;
    if (value === undefined || !numeric) return value;
    // As Python writes it.
    return value === "inf" ? Infinity : Number(value);
  };

  const sort = (table, header) => {
    const column = header.cellIndex;
    const numeric = header.classList.contains("number");
    const before = header.getAttribute("aria-sort");
    // The largest numbers and the first names are what one looks for.
    const first = numeric ? "descending" : "ascending";
    const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row) => [keyOf(row, column, numeric), row]);
    const known = keyed.filter(([key]) => key !== undefined);
    const unknown = keyed.filter(([key]) => key === undefined);
    known.sort(([left], [right]) => sign * compare(left, right));
    body.append(...[...known, ...unknown].map(([, row]) => row));
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header));
    }
  }
})();
