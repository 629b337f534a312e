// Elements from data. What the service tells is untrusted: it becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** An HTML element; attributes come from the code, text may come from anywhere. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** A sentence of the service as children of an element: what stands between backticks is code. */
export function sentence(text) {
  return String(text)
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? h("code", null, part) : part));
}

/** The same as {@link h} for SVG. */
export function s(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/**
 * Make `parent` hold what `wanted` says by changing as little as can be: focus, selection and scroll stay.
 * Children with a `data-key` are matched by it, others by their place. Listeners are not taken over.
 */
export function morph(parent, ...wanted) {
  const next = fill(document.createElement("div"), null, wanted);
  morphChildren(parent, [...next.childNodes]);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function morphChildren(parent, wanted) {
  const keyed = new Map();
  const unkeyed = [];
  for (const node of parent.childNodes) {
    const key = keyOf(node);
    if (key === null) unkeyed.push(node);
    else keyed.set(key, node);
  }
  const children = wanted.map((next) => {
    const key = keyOf(next);
    const found = key === null ? unkeyed.shift() : keyed.get(key);
    if (found?.nodeName !== next.nodeName) return next;
    morphNode(found, next);
    return found;
  });
  const kept = new Set(children);
  for (const node of [...parent.childNodes]) if (!kept.has(node)) node.remove();
  children.forEach((node, index) => {
    if (parent.childNodes[index] !== node) parent.insertBefore(node, parent.childNodes[index] ?? null);
  });
}

function morphNode(node, next) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== next.data) node.data = next.data;
    return;
  }
  for (const { name } of [...node.attributes]) if (!next.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of [...next.attributes]) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  morphChildren(node, [...next.childNodes]);
}
