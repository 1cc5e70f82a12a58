// What can be seen of a page, told in numbers: text that is cut, and where the parts of the page lie.

/** Text that a reader cannot read whole: spilled over, cut off, or broken into letters. Runs in the page. */
export function cut() {
  const found = [];
  const seen = (element) => {
    const { width, height } = element.getBoundingClientRect();
    return width > 1 && height > 1 && element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  };
  /** Whether what is cut can be had whole: by its name, its title, or by going there. */
  const told = (element) => element.closest('[title], [aria-label], a[href], summary') !== null;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.data.trim();
    const element = node.parentElement;
    if (text === '' || element.closest('.unseen, svg, option, script, noscript') || !seen(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const lines = [...range.getClientRects()].filter((line) => line.width > 0);
    if (lines.length === 0) continue;
    const where = `${element.tagName.toLowerCase()}.${element.className || '-'} “${text.slice(0, 40)}”`;
    for (let at = element; at && at !== document.body; at = at.parentElement) {
      const style = getComputedStyle(at);
      const box = at.getBoundingClientRect();
      const clips = style.overflowX === 'hidden' || style.overflowX === 'clip';
      if (clips && lines.some((line) => line.left < box.left - 1.5 || line.right > box.right + 1.5)) {
        if (style.textOverflow !== 'ellipsis' || !told(at)) found.push(`cut at the side: ${where}`);
        break;
      }
      if ((style.overflowY === 'hidden' || style.overflowY === 'clip') && lines.some((line) => line.bottom > box.bottom + 3 || line.top < box.top - 3)) {
        found.push(`cut below or above: ${where}`);
        break;
      }
      // What scrolls can be scrolled to.
      if (/auto|scroll/.test(style.overflowX + style.overflowY)) break;
      if (style.position === 'fixed') break;
    }
    const holder = element.closest('button, td, th, dt, dd, li, p, label, h1, h2, h3, h4, legend, small');
    if (holder && holder.scrollWidth > holder.clientWidth + 1 && holder.clientWidth > 0) {
      const style = getComputedStyle(holder);
      if (style.display !== 'inline' && style.overflowX === 'visible' && lines.some((line) => line.right > holder.getBoundingClientRect().right + 1.5 || line.left < holder.getBoundingClientRect().left - 1.5)) found.push(`spills: ${where}`);
    }
    // A word of Latin or Arabic letters that is broken every two or three of them is no word.
    const letters = text.replace(/\s/g, '').length;
    const rows = new Set(lines.map((line) => Math.round(line.top))).size;
    if (rows >= 3 && letters / rows < 4 && !/[\u3000-\u9fff]/.test(text)) found.push(`broken into letters: ${where}`);
  }
  return [...new Set(found)];
}

/** The parts of the page and where they lie: [what, start, width, top, height], in CSS pixels from the start of the line. Runs in the page. */
export function layout() {
  const across = document.documentElement.clientWidth;
  const rtl = document.documentElement.dir === 'rtl';
  const parts = 'header, header .shield, nav, main, aside, h1, h2, .page, .card, .composer, .box, .sheet, .bubble, figure, table, .turn, .plan, .went, .hello, button.main, fieldset, form, svg[role=img], [role=feed], [role=switch], dialog';
  const boxes = [];
  for (const element of document.querySelectorAll(parts)) {
    const { left, right, top, width, height } = element.getBoundingClientRect();
    if (width < 2 || height < 2 || top > innerHeight || top + height < 0 || !element.checkVisibility({ visibilityProperty: true })) continue;
    const names = ['shield', 'page', 'card', 'composer', 'box', 'sheet', 'bubble', 'turn', 'plan', 'went', 'hello'].filter((name) => element.classList.contains(name));
    const what = [element.tagName.toLowerCase(), ...names].join('.');
    boxes.push([what, Math.round(rtl ? across - right : left), Math.round(width), Math.round(top), Math.round(height)]);
  }
  return boxes;
}
