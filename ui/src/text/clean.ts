// What a model wrote is never believed to be harmless HTML. Nothing that loads by itself passes: a picture's address
// could carry what was said to another machine, so pictures become links that a person may follow.
import DOMPurify from 'dompurify';

const TAGS = [
  'a', 'blockquote', 'br', 'code', 'del', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'kbd', 'li', 'ol', 'p', 'pre',
  's', 'span', 'strong', 'sub', 'sup', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
];

/** What formulas consist of. None of it loads, and none leads anywhere. */
const MATH = [
  'math', 'menclose', 'mfrac', 'mi', 'mmultiscripts', 'mn', 'mo', 'mover', 'mpadded', 'mphantom', 'mprescripts', 'mroot', 'mrow', 'mspace',
  'msqrt', 'mstyle', 'msub', 'msubsup', 'msup', 'mtable', 'mtd', 'mtext', 'mtr', 'munder', 'munderover', 'none',
];
/** Attributes whose words lead nowhere: of lists and tables, and of formulas. */
const WORDS = [
  'start', 'align', 'dir',
  'accent', 'accentunder', 'columnalign', 'depth', 'display', 'displaystyle', 'fence', 'form', 'height', 'linethickness', 'lspace', 'mathvariant',
  'maxsize', 'minsize', 'movablelimits', 'notation', 'rspace', 'scriptlevel', 'separator', 'stretchy', 'symmetric', 'voffset', 'width',
];

const purify = DOMPurify(window);

purify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A' && node.hasAttribute('href')) {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  } else {
    // Every part of a formula could be a link.
    node.removeAttribute('href');
  }
});

/** HTML with nothing in it that acts, loads or leaves. */
export function clean(html: string): string {
  return purify.sanitize(html, {
    ALLOWED_TAGS: [...TAGS, ...MATH],
    ALLOWED_ATTR: ['href', 'title', 'class', ...WORDS],
    // What they say is no address.
    ADD_URI_SAFE_ATTR: WORDS,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}
