// All panes show the same place: one offset (CSS pixels) and one zoom for all of them.
let zoom = 1, at = null, from = null, wanted = null; // wanted: shares of the whole picture to be shown in the middle
const panes = () => [...element.querySelectorAll('.pane')];
function show() {
  for (const pane of panes()) {
    const img = pane.firstElementChild;
    if (!img.naturalWidth) { img.onload = show; continue; }
    const scale = zoom / (window.devicePixelRatio || 1);
    const w = img.naturalWidth * scale, h = img.naturalHeight * scale;
    if (zoom === 1) pane.style.height = `${Math.min(400, Math.max(120, h))}px`;
    const room = [pane.clientWidth - w, pane.clientHeight - h];
    pane.style.touchAction = room[1] >= 0 ? 'pan-y' : 'none'; // what fits does not keep a finger from scrolling the page
    if (wanted) {
      const [start, part] = region();
      at = [w, h].map((v, i) => [pane.clientWidth, pane.clientHeight][i] / 2 - (wanted[i] - start[i]) / part[i] * v);
      wanted = null;
    }
    at = (at ?? room.map(r => r / 2)).map((v, i) => room[i] >= 0 ? room[i] / 2 : Math.min(0, Math.max(v, room[i])));
    img.style.cssText = `width:${w}px;height:${h}px;transform:translate(${at[0]}px,${at[1]}px)`;
  }
  element.querySelectorAll('[data-zoom]').forEach(b => b.setAttribute('aria-pressed', +b.dataset.zoom === zoom));
}
// Where what is shown starts and how much it is, as shares of the whole picture; null: it is the whole.
function region() {
  const box = element.querySelector('.overview span')?.style;
  return box && [[box.left, box.top], [box.width, box.height]].map(pair => pair.map(v => parseFloat(v) / 100));
}
function lookAt(x, y) {
  wanted = [x, y];
  trigger('click', {x, y});
}
function zoomTo(next, x, y) {
  const pane = panes()[0];
  if (!pane || !at) return;
  x ??= pane.clientWidth / 2; y ??= pane.clientHeight / 2;
  next = Math.min(8, Math.max(1, next));
  at = [x - (x - at[0]) * next / zoom, y - (y - at[1]) * next / zoom];
  zoom = next;
  show();
}
element.addEventListener('pointerdown', e => {
  const pane = e.target.closest('.pane');
  if (pane) { from = [e.clientX, e.clientY]; pane.setPointerCapture(e.pointerId); pane.focus({preventScroll: true}); }
});
element.addEventListener('pointermove', e => {
  if (!from || !at) return;
  at = [at[0] + e.clientX - from[0], at[1] + e.clientY - from[1]];
  from = [e.clientX, e.clientY];
  show();
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => { from = null; });
element.addEventListener('wheel', e => {
  const pane = e.target.closest('.pane');
  if (!pane || !e.ctrlKey) return;
  e.preventDefault();
  const r = pane.getBoundingClientRect();
  zoomTo(e.deltaY < 0 ? zoom * 2 : zoom / 2, e.clientX - r.left, e.clientY - r.top);
}, {passive: false});
element.addEventListener('keydown', e => {
  if (!e.target.closest('.pane') || !at) return;
  const move = {ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40]}[e.key];
  if (move) {
    const before = at.join();
    at = [at[0] + move[0], at[1] + move[1]];
    show();
    const [start, part] = region() ?? [];
    const next = start?.map((v, i) => v + part[i] / 2 - Math.sign(move[i]) * part[i] / 2);
    if (at.join() === before && next && start.some((v, i) => move[i] > 0 ? v > 0 : move[i] < 0 && v + part[i] < 0.999))
      lookAt(...next); // at the edge of what is here
  }
  else if (e.key === '+' || e.key === '=') return zoomTo(zoom * 2);
  else if (e.key === '-') return zoomTo(zoom / 2);
  else return;
  e.preventDefault();
  show();
});
element.addEventListener('click', e => {
  const button = e.target.closest('[data-zoom]'), map = e.target.closest('.overview');
  if (button) zoomTo(+button.dataset.zoom);
  if (map) {
    const r = map.getBoundingClientRect();
    lookAt((e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height);
  }
});
watch('value', () => { at = null; requestAnimationFrame(show); });
requestAnimationFrame(show);
