// All panes show the same place: one offset (CSS pixels) and one zoom for all of them.
let zoom = 1, at = null, from = null;
const panes = () => [...element.querySelectorAll('.pane')];
function show() {
  for (const pane of panes()) {
    const img = pane.firstElementChild;
    if (!img.naturalWidth) { img.onload = show; continue; }
    const scale = zoom / (window.devicePixelRatio || 1);
    const w = img.naturalWidth * scale, h = img.naturalHeight * scale;
    if (zoom === 1) pane.style.height = `${Math.min(400, Math.max(120, h))}px`;
    const room = [pane.clientWidth - w, pane.clientHeight - h];
    at = (at ?? room.map(r => r / 2)).map((v, i) => room[i] >= 0 ? room[i] / 2 : Math.min(0, Math.max(v, room[i])));
    img.style.cssText = `width:${w}px;height:${h}px;transform:translate(${at[0]}px,${at[1]}px)`;
  }
  element.querySelectorAll('[data-zoom]').forEach(b => b.setAttribute('aria-pressed', +b.dataset.zoom === zoom));
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
  if (move) at = [at[0] + move[0], at[1] + move[1]];
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
    trigger('click', {x: (e.clientX - r.left) / r.width, y: (e.clientY - r.top) / r.height});
  }
});
watch('value', () => { at = null; requestAnimationFrame(show); });
requestAnimationFrame(show);
