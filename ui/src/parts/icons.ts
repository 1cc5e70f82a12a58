// Icons of our own, drawn with strokes on a field of 24 by 24. They are never the only sign: words stand beside them, or
// are their label.

export const icons = {
  plus: 'M12 5v14M5 12h14',
  send: 'M12 19V5M5.5 11.5 12 5l6.5 6.5',
  stop: 'M7 7h10v10H7z',
  retry: 'M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4',
  edit: 'M5 19l.8-3.6L16 5.2a1.4 1.4 0 0 1 2 0l.8.8a1.4 1.4 0 0 1 0 2L8.6 18.2 5 19zM14.5 6.8l2.7 2.7',
  copy: 'M9 9h10v10H9zM15 9V5H5v10h4',
  check: 'M5 12.5 10 17.5 19 7',
  close: 'M6 6l12 12M18 6 6 18',
  back: 'M15 5l-7 7 7 7',
  forth: 'M9 5l7 7-7 7',
  down: 'M5 9l7 7 7-7',
  clip: 'M18.5 11.5l-6.8 6.8a4 4 0 0 1-5.7-5.7l7.3-7.3a2.7 2.7 0 0 1 3.8 3.8l-7.2 7.2a1.3 1.3 0 0 1-1.9-1.9l6.3-6.3',
  search: 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20',
  menu: 'M4 7h16M4 12h11M4 17h16',
  chat: 'M5 5h14v11h-8l-4 3.5V16H5z',
  nodes: 'M12 4.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM6 14.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM18 14.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM10.8 9.2l-3.4 5.6M13.2 9.2l3.4 5.6M8.5 17h7',
  models: 'M4 6.5h11M9 12h11M4 17.5h11',
  settings: 'M5 7h6M17 7h2M14 4.5v5M5 17h2M13 17h6M10 14.5v5M5 12h10M18.5 12h.5',
  trash: 'M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7',
  save: 'M12 4v10M7.5 10 12 14.5 16.5 10M5 19h14',
  shield: 'M12 3.5l7 2.5v5.5c0 4.4-2.9 7.6-7 9-4.1-1.4-7-4.6-7-9V6z',
  cut: 'M9.5 4v4.5M14.5 4v4.5M7 8.5h10v3a5 5 0 0 1-1.3 3.4M12 16.5V21M4 4l16 16',
  veil: 'M4 4.5h16M6.5 4.5v9a5.5 5.5 0 0 0 11 0v-9M9.5 10h.01M14.5 10h.01M9.5 14.2c1.6 1.1 3.4 1.1 5 0',
  label: 'M4 5v6.2l8.6 8.3 6.9-6.9L11 4.5H4.5M8 8.5h.01',
  home: 'M4 11.5 12 4.5l8 7M6.5 10v9h11v-9',
  away: 'M7 18.5a4.2 4.2 0 0 1-.4-8.4 5.6 5.6 0 0 1 10.7 1A3.8 3.8 0 0 1 17 18.5z',
  route: 'M6 5v6a3 3 0 0 0 3 3h6a3 3 0 0 1 3 3v2M6 5 3.5 7.5M6 5l2.5 2.5M18 19l-2.5-2.5M18 19l2.5-2.5',
  folder: 'M4 6.5h6l2 2.5h8v10H4z',
  beside: 'M4 5.5h7v13H4zM13 5.5h7v13h-7z',
  guest: 'M12 4.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7zM5 19.5a7 7 0 0 1 14 0',
  file: 'M7 3.5h7l4 4v13H7zM14 3.5v4h4',
  warn: 'M12 4 21 19.5H3zM12 10v4.5M12 17v.5',
  tool: 'M14.2 9.8 5.6 18.4M19.4 8.2a4.4 4.4 0 0 1-6 4.1M11.8 10.7a4.4 4.4 0 0 1 5.1-6.1L14.4 7.1l2.5 2.5 2.5-2.5',
  more: 'M5 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0zM11 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0zM17 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0z',
} as const;

/** The name of an icon. */
export type IconName = keyof typeof icons;
