"use strict";
const number = (text) => Number(text.replace("inf", "Infinity"));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Tables: a click on a header sorts within each section, best first; the second click reverses, the third restores.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("th[data-column]")];
  const bodies = [...table.tBodies].map((body) => [body, [...body.querySelectorAll("tr:not(.section)")]]);
  for (const head of heads) {
    const first = head.dataset.better === "high" ? "descending" : "ascending";
    const orders = [first, first === "descending" ? "ascending" : "descending", "none"];
    const value = (row) => row.cells[head.dataset.column].dataset.value;
    head.querySelector("button").addEventListener("click", () => {
      const order = orders[(orders.indexOf(head.getAttribute("aria-sort") ?? "none") + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      for (const [body, rows] of bodies) {
        const sorted = order === "none" ? rows : [...rows].sort((one, two) => {
          const [a, b] = [value(one), value(two)];
          if (a === "" || b === "") return (a === "") - (b === ""); // n/a stays last
          const [x, y] = [number(a), number(b)];
          const less = isNaN(x) || isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x < y ? -1 : x > y;
          return less * (order === "ascending" ? 1 : -1);
        });
        body.append(...sorted);
      }
    });
  }
}

// Galleries: one zoom and one place for all panels, kept in CSS variables of the gallery.
for (const stage of document.querySelectorAll(".stage")) {
  const steps = [1, 2, 3, 4, 6, 8, 12, 16];
  const views = [...stage.querySelectorAll(".view")];
  const shown = stage.querySelector("output");
  if (!views.length) continue;
  let zoom = 1, x = 0, y = 0; // (x, y): top left corner of what is seen, as parts of the picture

  const show = () => {
    x = clamp(x, 0, 1 - 1 / zoom);
    y = clamp(y, 0, 1 - 1 / zoom);
    const snap = (part, length) => Math.round(part * zoom * length) / length; // whole pixels of the screen stay crisp
    const { clientWidth, clientHeight } = views[0];
    stage.style.setProperty("--zoom", zoom);
    stage.style.setProperty("--x", `${-100 * snap(x, clientWidth)}%`);
    stage.style.setProperty("--y", `${-100 * snap(y, clientHeight)}%`);
    stage.classList.toggle("zoomed", zoom > 1);
    shown.textContent = `${zoom}×`;
  };
  const move = (dx, dy) => { x += dx / zoom; y += dy / zoom; show(); };
  const step = (direction, px = 0.5, py = 0.5) => { // what is at (px, py) of the view stays there
    const next = steps[clamp(steps.indexOf(zoom) + direction, 0, steps.length - 1)];
    x += px / zoom - px / next;
    y += py / zoom - py / next;
    zoom = next;
    show();
  };
  const reset = () => { zoom = 1; show(); };
  const actions = {
    "+": () => step(1), "=": () => step(1), "-": () => step(-1), "0": reset,
    ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0),
    ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
  };
  stage.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || (zoom === 1 && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    action();
  });
  for (const button of stage.querySelectorAll("[data-key]")) {
    button.addEventListener("click", actions[button.dataset.key]);
  }
  for (const view of views) {
    const place = (event) => {
      const box = view.getBoundingClientRect();
      return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp((event.clientY - box.top) / box.height, 0, 1)];
    };
    let from = null, turned = 0;
    view.addEventListener("pointerdown", (event) => {
      stage.focus({ preventScroll: true });
      if (zoom > 1) view.setPointerCapture(event.pointerId);
      from = place(event);
    });
    view.addEventListener("pointermove", (event) => {
      const at = place(event);
      stage.style.setProperty("--at-x", `${100 * at[0]}%`);
      stage.style.setProperty("--at-y", `${100 * at[1]}%`);
      stage.classList.add("pointed");
      if (from && event.buttons) { move(from[0] - at[0], from[1] - at[1]); from = at; }
    });
    view.addEventListener("pointerup", () => { from = null; });
    view.addEventListener("pointerleave", () => stage.classList.remove("pointed"));
    view.addEventListener("dblclick", (event) => step(event.shiftKey ? -1 : 1, ...place(event)));
    view.addEventListener("wheel", (event) => {
      // A page full of pictures must still scroll: the wheel zooms a gallery that was clicked, or with Ctrl (a pinch).
      if (!event.ctrlKey && !stage.contains(document.activeElement)) return;
      event.preventDefault();
      turned += event.deltaY;
      if (Math.abs(turned) < 30) return;
      step(turned < 0 ? 1 : -1, ...place(event));
      turned = 0;
    }, { passive: false });
  }
}
