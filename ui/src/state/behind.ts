// What the first picture needs not: done when it is drawn, so that a person sees it the sooner.

/** Does `work` behind the frame that is drawn next. Calling what it gives takes that back. */
export function behind(work: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const frame = requestAnimationFrame(() => {
    timer = setTimeout(work);
  });
  return () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
}
