"""The script of every page: it sorts and filters tables, and opens what is folded before the page is printed.

Invariant: it only moves and hides what is there; without it, the page says the same.
"""

from __future__ import annotations

SCRIPT = """
"use strict";
(function () {
  var FEW = 8;
  function value(cell) {
    var own = cell.getAttribute("data-v");
    return own === null ? cell.textContent.trim() : own === "" ? null : Number(own);
  }
  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }
  function sortable(table) {
    var heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
    heads.forEach(function (head, place) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        var first = head.classList.contains("n") ? "descending" : "ascending";
        var next = now === null ? first : now === "ascending" ? "descending" : "ascending";
        heads.forEach(function (each) { each.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", next);
        var rows = Array.from(body.rows).map(function (row) { return [value(row.cells[place]), row]; });
        rows.sort(function (a, b) {
          if (a[0] === null || b[0] === null) { return (a[0] === null) - (b[0] === null); }
          return next === "ascending" ? compare(a[0], b[0]) : compare(b[0], a[0]);
        });
        rows.forEach(function (each) { body.appendChild(each[1]); });
      });
    });
  }
  function filtered(table, number) {
    var rows = Array.from(table.tBodies[0].rows);
    if (rows.length < FEW) { return; }
    var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
    var line = document.createElement("p"), label = document.createElement("label");
    var field = document.createElement("input"), said = document.createElement("output");
    line.className = "filter";
    field.type = "search";
    field.id = "filter" + number;
    said.setAttribute("for", field.id);
    label.textContent = "Filter rows";
    label.appendChild(field);
    field.setAttribute("aria-label", "Filter rows: " + (table.caption ? table.caption.textContent : "table"));
    field.addEventListener("input", function () {
      var words = field.value.toLowerCase().split(/\\s+/).filter(Boolean), left = 0;
      rows.forEach(function (row, place) {
        row.hidden = !words.every(function (word) { return texts[place].indexOf(word) >= 0; });
        left += row.hidden ? 0 : 1;
      });
      said.textContent = words.length ? left + " of " + rows.length : "";
    });
    line.appendChild(label);
    line.appendChild(said);
    var box = table.closest(".scroll") || table;
    box.parentNode.insertBefore(line, box);
  }
  Array.from(document.querySelectorAll("table.sorts")).forEach(function (table, number) {
    sortable(table);
    filtered(table, number);
  });
  var closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (each) { each.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (each) { each.open = false; });
  });
})();
"""
